"""A small measurement from end to end: what is measured, written, continued and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from refrag_components.benchmarking import latency
from refrag_components.benchmarking.latency import LatencySettings
from refrag_components.benchmarking.results import RESULTS_FILE, Results
from refrag_components.benchmarking.run import measure_latency
from refrag_components.benchmarking.scenario import Case, cases
from refrag_components.benchmarking.stages import ENGINE_STAGES
from refrag_components.benchmarking.subject import CheckpointSubject, ShapeSubject
from refrag_components.exceptions import EvaluationError

SETTINGS = LatencySettings(passage_tokens=16, repeats=1, new_tokens=2, batch_tokens=2)


def run(subject: Any, chosen: list[Case], folder: Path, **others: Any) -> Results:
    arguments = {"settings": SETTINGS, "description": {"model": "tiny"}} | others
    return measure_latency(subject, chosen, folder, **arguments)


def rows(results: Results) -> dict[tuple[Any, ...], Any]:
    names = ("context", "method", "k", "expanded", "cached")
    return {tuple(row[name] for name in names): row for row in results.rows}


@pytest.fixture(scope="module")
def measured(tiny_subject: ShapeSubject, tmp_path_factory: pytest.TempPathFactory) -> Results:
    chosen = cases((64,), (4, 8), (0.0, 0.25))
    return run(tiny_subject, chosen, tmp_path_factory.mktemp("bench"))


def test_every_case_has_a_row_with_times(measured: Results) -> None:
    assert len(measured.rows) == 13
    for row in measured.rows:
        assert row["first_token"]["median"] > 0
        assert row["first_token_floor"] > 0
        assert row["token"]["median"] > 0
        assert row["tokens"] == 2  # no answer of random weights ends by itself
        assert row["throughput"]["batch"] == 1
        assert row["throughput"]["tokens"] == 2
        assert set(ENGINE_STAGES) < set(row["stages"])


def test_positions_are_those_of_the_case(measured: Results) -> None:
    by_case = rows(measured)
    text = by_case[64, "text", 0, 0.0, True]["positions"]
    around = text - 64
    for k in (4, 8):
        for cached in (True, False):
            whole = by_case[64, "compress", k, 0.0, cached]
            assert whole["positions"] - around in (64 // k, 64 // k + 1)  # a token in front
            quarter = by_case[64, "compress", k, 0.25, cached]["positions"] - around
            assert quarter in (16 + 48 // k, 17 + 48 // k)
            dropped = by_case[64, "drop", k, 0.25, cached]["positions"] - around
            assert dropped in (16, 17)


def test_stages_are_those_of_the_case(measured: Results) -> None:
    for row in measured.rows:
        stages = set(row["stages"])
        assert ("store" in stages) == (row["method"] != "text" and row["cached"])
        assert ("encoding" in stages) == (not row["cached"])
        assert ("policy" in stages) == (row["expanded"] > 0)


def test_bytes_per_token_stand_beside_each_other(measured: Results) -> None:
    by_case = rows(measured)
    four = by_case[64, "compress", 4, 0.0, True]
    eight = by_case[64, "compress", 8, 0.0, True]
    assert four["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    assert four["kv_bytes"] == four["positions"] * four["kv_bytes_per_token"]
    assert four["stored_bytes_per_token"] > eight["stored_bytes_per_token"] > 2 * 32 / 8
    assert "stored_bytes_per_token" not in by_case[64, "text", 0, 0.0, True]


def test_a_measurement_continues_where_it_stopped(
    tiny_subject: ShapeSubject, tmp_path: Path
) -> None:
    run(tiny_subject, [Case(32, "text")], tmp_path)
    before = json.loads((tmp_path / RESULTS_FILE).read_text())["rows"]
    lines: list[str] = []
    chosen = [Case(32, "text"), Case(32, "compress", 4)]
    run(tiny_subject, chosen, tmp_path, progress=lines.append)
    after = json.loads((tmp_path / RESULTS_FILE).read_text())["rows"]
    assert after[:1] == before
    assert len(after) == 2
    assert len(lines) == 1
    assert lines[0].startswith("2/2 32 tokens, k=4, p=0, rest compressed: first token after")


def test_no_case_begins_once_the_time_is_over(tiny_subject: ShapeSubject, tmp_path: Path) -> None:
    chosen = [Case(32, "text"), Case(32, "compress", 4)]
    answers = iter((False, True))
    found = run(tiny_subject, chosen, tmp_path, over=lambda: next(answers))
    assert [row["method"] for row in found.rows] == ["text"]
    found = run(tiny_subject, chosen, tmp_path)
    assert [row["method"] for row in found.rows] == ["text", "compress"]


def test_rows_with_other_settings_are_not_mixed(tiny_subject: ShapeSubject, tmp_path: Path) -> None:
    run(tiny_subject, [Case(32, "text")], tmp_path)
    with pytest.raises(EvaluationError, match="model='tiny', not 'other'"):
        run(tiny_subject, [Case(64, "text")], tmp_path, description={"model": "other"})


def test_damaged_results_are_not_overwritten(tiny_subject: ShapeSubject, tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text('{"rows": [')
    with pytest.raises(EvaluationError, match="damaged"):
        run(tiny_subject, [Case(32, "text")], tmp_path)
    assert (tmp_path / RESULTS_FILE).read_text() == '{"rows": ['


def test_what_does_not_fit_the_window_gets_a_row_that_says_so(
    layered_folder: Path, tmp_path: Path
) -> None:
    """The window is 512 positions: too little for the text, enough for the ladder's chunks."""
    subject = CheckpointSubject(
        str(layered_folder), device=torch.device("cpu"), dtype=torch.float32, attention="sdpa"
    )
    chosen = [Case(600, "text"), Case(600, "compress", 8), Case(600, "drop", 16, 0.1)]
    settings = LatencySettings(passage_tokens=64, repeats=1, new_tokens=0)
    text, compressed, dropped = run(subject, chosen, tmp_path, settings=settings).rows
    assert text["failed"] == "longer than the decoder's window of 512 positions"
    assert compressed["positions"] < dropped["positions"] + 75 < 512
    assert "token" not in compressed
    assert "600 tokens, text: longer than" in (tmp_path / "latency.md").read_text()


def test_what_does_not_fit_the_memory_gets_a_row_that_says_so(
    tiny_subject: ShapeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(latency, "measure_stages", fail)
    results = run(tiny_subject, [Case(32, "text")], tmp_path)
    assert results.rows[0]["failed"] == "more than the device's memory"


@pytest.mark.parametrize("name", ["passage_tokens", "repeats", "new_tokens", "largest_batch"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LatencySettings(**{name: -1})
