"""Tables and figures of measurements that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refrag_components.benchmarking.figures import curves, draw_figures
from refrag_components.benchmarking.paper import PAPER
from refrag_components.benchmarking.report import latency_markdown
from refrag_components.benchmarking.results import Results, acceleration
from refrag_components.benchmarking.scenario import CONTEXTS


def timing(seconds: float) -> dict[str, Any]:
    return {"median": seconds, "low": 0.9 * seconds, "high": 1.2 * seconds, "repeats": 5}


def row(context: int, method: str, first: float, **others: Any) -> dict[str, Any]:
    stages = {"embedding": 0.1, "prefill": 0.7, "sampling": 0.1, "tokenising": 0.1}
    return {
        "context": context,
        "method": method,
        "k": 0,
        "expanded": 0.0,
        "cached": True,
        "positions": context,
        "first_token": timing(first),
        "first_token_floor": first / 2,
        "stages": {name: timing(share * first) for name, share in stages.items()},
        "kv_bytes": 2**20,
        "kv_bytes_per_token": 1024,
    } | others


@pytest.fixture
def results() -> Results:
    batch = {"tokens": 128.0}
    return Results(
        {"model": "tiny", "matrix_rate": 7.9e14, "bandwidth": 4.3e12},
        [
            row(512, "text", 0.2, token=timing(0.02), token_floor=0.01),
            row(1024, "text", 0.4, throughput={**batch, "tokens_per_second": 100.0, "batch": 8}),
            row(512, "compress", 0.1, k=8, token=timing(0.02), token_floor=0.01),
            row(
                1024,
                "compress",
                0.04,
                k=8,
                stored_bytes_per_token=1030.4,
                throughput={**batch, "tokens_per_second": 250.0, "batch": 64},
            ),
            row(1024, "drop", 0.05, k=8, expanded=0.1),
            row(1024, "compress", 0.2, k=8, cached=False),
            {
                "context": 2048,
                "method": "text",
                "k": 0,
                "expanded": 0.0,
                "cached": True,
                "failed": "more than the device's memory",
            },
            row(2048, "compress", 0.1, k=8),
        ],
    )


def test_acceleration_is_over_the_text_of_the_same_context(results: Results) -> None:
    assert acceleration(results, results.rows[2], "first_token") == pytest.approx(2)
    assert acceleration(results, results.rows[2], "token") == pytest.approx(1)
    assert acceleration(results, results.rows[3], "throughput") == pytest.approx(2.5)
    assert acceleration(results, results.rows[3], "token") is None
    assert acceleration(results, results.rows[7], "first_token") is None  # its text did not fit


def test_curves_are_named_as_the_papers(results: Results) -> None:
    found = curves(results, "first_token")
    assert found["k=8"] == pytest.approx({512: 2.0, 1024: 10.0})
    assert found["k=8, p=0.1, dropped"] == pytest.approx({1024: 8.0})
    assert found["k=8, not cached"] == pytest.approx({1024: 2.0})
    assert set(found) & set(PAPER["first_token"]) == {"k=8"}
    assert list(curves(results, "throughput")) == ["k=8"]


def test_the_papers_headline_is_among_its_points() -> None:
    assert PAPER["first_token"]["k=32"][16_384] == 30.85
    series = [points for quantity in PAPER.values() for points in quantity.values()]
    assert all(tuple(points) == CONTEXTS for points in series)


def test_a_table_has_a_line_per_row_and_says_what_is_missing(results: Results) -> None:
    text = latency_markdown(results)
    assert "- matrix rate: 790 Tflop/s" in text
    assert "| 512 | k=8, p=0 | 512 | 100 (90-120) | 2.00 | 2.00 | 50 | 2.00 | 20 (18-24) |" in text
    assert "| 1024 | k=8, p=0.1, rest dropped |" in text
    assert "250 (64) | 2.50" in text
    assert "1030 | 1024 |" in text
    assert "peak GiB" not in text  # nothing was measured for it
    assert "- 2048 tokens, text: more than the device's memory" in text
    assert "store |" not in text


def test_an_empty_measurement_has_a_table() -> None:
    assert "first token" in latency_markdown(Results({"model": "tiny"}))


def test_one_figure_per_quantity_that_was_measured(results: Results, tmp_path: Path) -> None:
    written = draw_figures(results, tmp_path)
    assert [path.name for path in written] == [
        "first-token.png",
        "per-token.png",
        "throughput.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    del results.rows[1]["throughput"]
    assert [path.name for path in draw_figures(results, tmp_path)] == [
        "first-token.png",
        "per-token.png",
    ]
