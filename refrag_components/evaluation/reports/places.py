"""Scores side by side, by where in the context the passages stand that answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refrag_components.evaluation.reports.table import markdown_table

__all__ = ["places_markdown"]


def places_markdown(tables: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a section with F1 by place; none unless a set was measured with several.

    Args:
        tables: From ``summarise``; those of questions with answers count.
    """
    sets: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table in tables:
        if table.get("place") and table["judged"] == "answers":
            sets.setdefault((table["set"], table["retrieval"]), []).append(table)
    lines: list[str] = []
    for (name, _), own in sets.items():
        places = list(dict.fromkeys(table["place"] for table in own))
        if len(places) < 2:
            continue
        lines += ["", f"### {name}", ""]
        lines += markdown_table(["context", "passages", *places], _rows(own, places))
    if lines:
        title = "## F1 by place of the passages that answer"
        lines = ["", title, "", "Brackets as above, over questions.", *lines]
    return lines


def _rows(tables: Sequence[dict[str, Any]], places: Sequence[str]) -> list[list[str]]:
    cells = {
        (table["passages"], row["label"], table["place"]): row
        for table in tables
        for row in table["rows"]
    }
    rows = dict.fromkeys((passages, label) for passages, label, _ in cells)
    return [
        [
            label,
            str(passages),
            *(_f1(cells[key]) if (key := (passages, label, p)) in cells else "" for p in places),
        ]
        for passages, label in rows
    ]


def _f1(row: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in row["f1_interval"])
    return f"{100 * row['f1']:.1f} ({low:.1f} to {high:.1f})"
