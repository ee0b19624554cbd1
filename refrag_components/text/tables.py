"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table whose head is the first; "" for none.

    Args:
        rows: Cells of each row; rows may be of different lengths.
    """
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    head, *body = (f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in lines)
    return "\n".join([head, f"|{' --- |' * width}", *body])
