"""A measurement as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.benchmarking.results import Results, acceleration
from refrag_components.benchmarking.stages import ENGINE_STAGES, STAGES
from refrag_components.evaluation.reports.table import markdown_table

__all__ = ["TABLE_FILE", "latency_markdown", "write_markdown"]

TABLE_FILE = "latency.md"

Row = dict[str, Any]

_NOTES = """\
Times are medians in milliseconds, with the fastest and the slowest in brackets. *First token* goes
from the retrieved passages to the first delta of the answer; *engine* is its part after the layout
(embedding, prefill, sampling, each waited for). "x" is the acceleration over the row "text" of the
same context. The *floor* is what the measured matrix rate and bandwidth of the device allow."""


def write_markdown(results: Results, folder: Path) -> Path:
    """Writes the tables; the file is never incomplete."""
    path = folder / TABLE_FILE
    with atomic_file(path) as scratch:
        scratch.write_text(latency_markdown(results), encoding="utf-8")
    return path


def latency_markdown(results: Results) -> str:
    """Two tables: times next to those of the full text, and the stages before the first token."""
    settings = "\n".join(
        f"- {name.replace('_', ' ')}: {_setting(name, value)}"
        for name, value in results.settings.items()
    )
    rows = sorted(
        results.rows, key=lambda r: (r["context"], r["k"], not r["cached"], r["expanded"])
    )
    failed = [row for row in rows if "failed" in row]
    measured = [row for row in rows if "failed" not in row]
    lines = ["# Latency", "", settings, "", _NOTES, "", *_main(results, measured)]
    lines += ["", "## Before the first token", "", *_stages(measured)]
    if failed:
        lines += ["", "## Not measured", ""]
        lines += [f"- {row['context']} tokens, {_reads(row)}: {row['failed']}" for row in failed]
    return "\n".join(lines) + "\n"


def _main(results: Results, rows: list[Row]) -> list[str]:
    columns: dict[str, Callable[[Row], str]] = {
        "context": lambda row: str(row["context"]),
        "reads": _reads,
        "positions": lambda row: str(row["positions"]),
        "first token": lambda row: _spread(row["first_token"]),
        "x": lambda row: _times(acceleration(results, row, "first_token")),
        "engine x": lambda row: _times(_engine(results, row)),
        "floor": lambda row: _ms(row["first_token_floor"]),
        "of the floor": lambda row: _times(row["first_token"]["median"] / row["first_token_floor"]),
        "per token": lambda row: _spread(row.get("token")),
        "x per token": lambda row: _times(acceleration(results, row, "token")),
        "its floor": lambda row: _ms(row.get("token_floor")),
        "of its floor": lambda row: _times(_of_token_floor(row)),
        "tokens/s (batch)": _throughput,
        "x tokens/s": lambda row: _times(acceleration(results, row, "throughput")),
        "peak GiB": lambda row: _number(row.get("peak_memory_bytes"), 2**30, 1),
        "KV MiB": lambda row: _number(row["kv_bytes"], 2**20, 1),
        "stored bytes per token": lambda row: _number(row.get("stored_bytes_per_token"), 1, 0),
        "KV bytes per token": lambda row: _number(row["kv_bytes_per_token"], 1, 0),
    }
    columns = {
        name: cell
        for name, cell in columns.items()
        if not rows or any(cell(row) != "-" for row in rows)
    }
    return markdown_table(list(columns), [[cell(row) for cell in columns.values()] for row in rows])


def _stages(rows: list[Row]) -> list[str]:
    names = [name for name in STAGES if any(name in row["stages"] for row in rows)]
    cells = [
        [
            row["context"],
            _reads(row),
            *(_ms((row["stages"].get(name) or {}).get("median")) for name in names),
            _ms(sum(stage["median"] for stage in row["stages"].values())),
            _ms(row["first_token"]["median"]),
        ]
        for row in rows
    ]
    table = markdown_table(["context", "reads", *names, "sum", "first token"], cells)
    return [*table, "", *(f"- {name}: {STAGES[name]}" for name in names)]


def _of_token_floor(row: Row) -> float | None:
    return row["token"]["median"] / float(row["token_floor"]) if "token" in row else None


def _engine(results: Results, row: Row) -> float | None:
    plain = results.text(row["context"])
    if plain is None or "failed" in plain:
        return None
    return _engine_seconds(plain) / _engine_seconds(row)


def _engine_seconds(row: Row) -> float:
    return sum(float(row["stages"][name]["median"]) for name in ENGINE_STAGES)


def _reads(row: Row) -> str:
    if row["method"] == "text":
        return "text"
    origin = "" if row["cached"] else ", not cached"
    rest = ", rest dropped" if row["method"] == "drop" else ""
    return f"k={row['k']}, p={row['expanded']:g}{rest}{origin}"


def _setting(name: str, value: Any) -> str:
    if name == "matrix_rate":
        return f"{value / 1e12:.3g} Tflop/s"
    return f"{value / 1e9:.4g} GB/s" if name == "bandwidth" else str(value)


def _throughput(row: Row) -> str:
    measured = row.get("throughput")
    return f"{measured['tokens_per_second']:.4g} ({measured['batch']})" if measured else "-"


def _spread(timing: Row | None) -> str:
    if timing is None:
        return "-"
    return f"{_ms(timing['median'])} ({_ms(timing['low'])}-{_ms(timing['high'])})"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.2g}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"
