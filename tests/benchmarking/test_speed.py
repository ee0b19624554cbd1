"""What ``benchmarks/speed.py`` does on a GPU, as far as a CPU can do it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import speed
from refrag_components.benchmarking import run, throughput
from refrag_components.benchmarking.roofline import Rates
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.modeling import RefragModel
from refrag_components.weights.loading import plan_no_attention


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Static caches, as on a GPU; what a GPU would record is run. Rates need no measurement."""

    def lent(model: RefragModel) -> StaticCaches:
        return StaticCaches(model, record=lambda work: work)

    monkeypatch.setattr(StaticCaches, "for_model", lent)
    monkeypatch.setattr(run, "measure_rates", lambda *_: Rates(1e12, 1e11))
    yield
    plan_no_attention()


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls the program with the smallest shape and context; returns its folder."""

    def call(*options: str, seconds: str = "240") -> Path:
        given = ["speed.py", str(tmp_path / "out"), "--shape", "tiny", "--context", "64"]
        given += ["--device", "cpu", "--dtype", "float32"]
        given += ["--repeats", "1", "--seconds", seconds, *options]
        monkeypatch.setattr(sys, "argv", given)
        speed.main()
        return tmp_path / "out"

    return call


def rows(folder: Path, part: str) -> list[dict[str, Any]]:
    content = json.loads((folder / part / "latency.json").read_text())
    found: list[dict[str, Any]] = content["rows"]
    return found


def test_kernels_alone(measure: Any) -> None:
    """The weights are made for it, and what is recorded reads them in joined products."""
    text = (measure("--only", "kernels") / "kernels.txt").read_text()
    assert "a prompt, recorded:" in text
    assert "8 steps, recorded:" in text
    assert text.count("aten::addmm_") == 2
    names = [
        line.split("  ")[-1] for line in text.partition("to the first token:\n")[2].split("\n")
    ]
    order = ["preparation", "prefill, started", "token on the host, and its text", "first token"]
    assert [name for name in names if name in order] == order


def test_a_short_and_a_long_prompt_are_profiled(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "PROFILED", (64, 128))
    text = (
        measure("--only", "kernels", "--context", "64", "128", "256") / "kernels.txt"
    ).read_text()
    assert [line for line in text.split("\n") if line.endswith(" tokens")] == [
        "64 tokens",
        "128 tokens",
    ]


def test_attention_is_the_librarys_unless_cudnns_is_asked_for(measure: Any) -> None:
    measure("--only", "kernels")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    measure("--only", "kernels", "--cudnn")
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_all_parts(
    measure: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "RATES", (32,))  # as few rows as have everything
    monkeypatch.setattr(speed, "FRACTIONS", (0.1,))
    folder = measure()
    assert (folder / "kernels.txt").is_file()
    found = rows(folder, "latency")
    assert not any("failed" in row for row in found)
    assert {row["method"] for row in found} == {"text", "compress", "drop"}
    assert {row["expanded"] for row in found} == {0.0, 0.1}
    assert {row["cached"] for row in found} == {True, False}
    full = rows(folder, "throughput")
    assert [row["throughput"]["batch"] for row in full] == [1, 1]
    capsys.readouterr()
    measure()  # everything is there
    assert "first token" not in capsys.readouterr().out


def test_what_was_killed_goes_on(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is written before the next one begins."""
    measured = run.measure_case
    seen: list[Any] = []

    def killed(model: Any, case: Any, *others: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(case)
        return measured(model, case, *others)

    monkeypatch.setattr(run, "measure_case", killed)
    with pytest.raises(KeyboardInterrupt):
        measure("--only", "nothing")
    monkeypatch.setattr(run, "measure_case", measured)
    folder = measure("--only", "nothing")
    found = rows(folder, "latency")
    assert [(row["method"], row["k"]) for row in found] == [
        ("text", 0),
        ("compress", 32),
        ("compress", 16),
    ]


def test_no_row_begins_once_the_time_is_over(measure: Any) -> None:
    folder = measure(seconds="0")
    assert not folder.exists()


def test_a_full_memory_ends_a_batch_and_not_the_run(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TransformersEngine.generate

    def limited(engine: Any, layouts: Any, params: Any) -> Any:
        if len(layouts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(engine, layouts, params)

    monkeypatch.setattr(TransformersEngine, "generate", limited)
    monkeypatch.setattr(throughput, "_estimate", lambda *_: 4)
    folder = measure("--only", "throughput")
    assert {row["throughput"]["batch"] for row in rows(folder, "throughput")} <= {1, 2}
