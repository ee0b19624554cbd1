"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_row", "markdown_table"]


def markdown_table(rows: Sequence[Sequence[object]], *, numbers: bool = False) -> str:
    """Rows as a table whose head is the first; "" for none.

    Args:
        rows: Cells of each row; rows may be of different lengths.
        numbers: Whether all columns except the first hold numbers, which stand on the right.
    """
    if not rows:
        return ""
    width = max(map(len, rows))
    head, *body = (markdown_row([*row, *[""] * (width - len(row))]) for row in rows)
    aligned = markdown_row(["---", *["---:" if numbers else "---"] * (width - 1)])
    return "\n".join([head, aligned, *body])


def markdown_row(cells: Sequence[object]) -> str:
    """One line of a table."""
    escaped = (" ".join(str(cell).replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(escaped)} |"
