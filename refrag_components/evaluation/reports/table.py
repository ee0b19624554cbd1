"""Markdown tables of measurements, as lines."""

from __future__ import annotations

from collections.abc import Sequence

from refrag_components.text import tables

__all__ = ["markdown_table"]


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: bool = True
) -> list[str]:
    """The lines of a table.

    Args:
        headings: One per column.
        rows: Cells as they are printed, in rows as long as the headings.
        numbers: Whether all columns except the first hold numbers; otherwise none does.
    """
    return tables.markdown_table([headings, *rows], numbers=numbers).split("\n")
