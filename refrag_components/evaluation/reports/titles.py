"""Titles of measurements and cells that Markdown files and the terminal have in common."""

from __future__ import annotations

from typing import Any

__all__ = ["answers_title", "rate_cell", "text_title"]


def answers_title(table: dict[str, Any]) -> str:
    """The title of one set in one setting, from ``summarise``."""
    count = table["passages"]
    passages = f"{count} passage" + ("s" if count > 1 else "")
    items = f"{table['items']} questions"
    items += " without an answer" if table["judged"] == "refusals" else ""
    placed = f", answer at the {table['place']}" if table.get("place") else ""
    return f"{table['set']}: {items}, {passages}, {table['retrieval']}{placed}"


def text_title(table: dict[str, Any]) -> str:
    """The title of one variant of running text, from ``measure_contexts``."""
    return (
        f"k={table['chunk_size']}, s={table['context_tokens']}, "
        f"o={table['output_tokens']}, {table['windows']} windows, {table['order']}"
    )


def rate_cell(row: dict[str, Any]) -> str:
    """The compression rate of a row, empty if it has none."""
    return "" if row["rate"] is None else f"{row['rate']:.2f}"
