"""Coverage as JSON and as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.evaluation.answers.results import write_json
from refrag_components.evaluation.reports.table import markdown_table

__all__ = ["write_coverage"]

_NOTE = (
    "The share of questions for which *all* passages that the answer needs are among those found, "
    "and for which *any* is. MMR is maximal marginal relevance among the 100 most similar, with so "
    "much diversity; *clusters* are k-means of the same 100, of which the best are taken in turn. "
    "*As text*: the same passages from the first on as text, as many as fit the positions that all "
    "of them take as one chunk embedding for k tokens. Brackets hold 95% bootstrap intervals over "
    "clusters of questions that need the same passage; differences are paired."
)


def write_coverage(folder: str | Path, model: str, tables: Sequence[dict[str, Any]]) -> list[Path]:
    """Writes ``coverage.json`` and ``coverage.md``.

    Args:
        folder: Folder to write to.
        model: Name of the model.
        tables: From ``measure_coverage``.

    Returns:
        The files written.
    """
    path = Path(folder) / "coverage.json"
    write_json(path, {"model": model, "tables": list(tables)})
    lines = ["# Coverage", "", _NOTE]
    for table in tables:
        lines += ["", f"## {table['set']}: {table['questions']} questions", "", *_table(table)]
    text = path.with_suffix(".md")
    with atomic_file(text) as scratch:
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [path, text]


def _table(table: dict[str, Any]) -> list[str]:
    rungs = [
        int(name.removeprefix("positions_"))
        for name in table["rows"][0]
        if name.startswith("positions_")
    ]
    headings = ["order", "passages", "tokens", "all", "any", "all, less similarity alone"]
    for k in rungs:
        headings += [f"positions, k={k}", "passages as text", "all as text", "all, less as text"]
    rows = []
    for row in table["rows"]:
        low, high = (100 * bound for bound in row["all_interval"])
        cells = [
            row["order"],
            str(row["passages"]),
            f"{row['tokens']:.0f}",
            f"{100 * row['all']:.1f} ({low:.1f} to {high:.1f})",
            f"{100 * row['any']:.1f}",
            _difference(row, "less_similar"),
        ]
        for k in rungs:
            cells += [
                f"{row[f'positions_{k}']:.0f}",
                f"{row[f'passages_as_text_{k}']:.1f}",
                f"{100 * row[f'all_as_text_{k}']:.1f}",
                _difference(row, f"less_text_{k}"),
            ]
        rows.append(cells)
    return markdown_table(headings, rows)


def _difference(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    low, high = (100 * bound for bound in row[f"{name}_interval"])
    return f"{100 * row[name]:+.1f} ({low:+.1f} to {high:+.1f})"
