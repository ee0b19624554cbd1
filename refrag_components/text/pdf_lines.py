"""The lines of a page of a PDF, and which of them are rows of a table."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from ctypes import byref
from itertools import groupby
from typing import NamedTuple

from pypdfium2 import PdfTextPage
from pypdfium2.raw import FS_RECTF, FPDFText_GetLooseCharBox, FPDFText_GetUnicode

from refrag_components.text.tables import markdown_table

__all__ = ["page_text"]

_WORD = re.compile(r"\S+")
_GAP = 0.9  # of the height of a font: no space between two words is as wide
_MOST_CHARACTERS = 40  # of a table's cells on the average; columns of running text have more


class _Cell(NamedTuple):
    """Text with no wide gap in it, and where it begins and ends on its line."""

    text: str
    left: float
    right: float


def page_text(page: PdfTextPage) -> str:
    """The text of a page in reading order, with rows of tables as in Markdown."""
    parts: list[str] = []
    for rows, lines in groupby(_lines(page), key=lambda cells: len(cells) > 1):
        block = list(lines)
        table = _table(block) if rows and len(block) > 1 else None
        parts.append(table or "\n".join("  ".join(c.text for c in cells) for cells in block))
    return "\n".join(parts)


def _lines(page: PdfTextPage) -> Iterator[list[_Cell]]:
    """Cells of each line; PDFium has put the lines in order and the spaces in."""
    codes = (FPDFText_GetUnicode(page, i) for i in range(page.count_chars()))
    start = 0
    for line in "".join(chr(min(code, sys.maxunicode)) for code in codes).split("\n"):
        yield list(_cells(page, line, start))
        start += len(line) + 1


def _cells(page: PdfTextPage, line: str, start: int) -> Iterator[_Cell]:
    """Cells of a line whose first character has this number on the page."""
    cell = None
    first, last = FS_RECTF(), FS_RECTF()
    for word in _WORD.finditer(line):
        FPDFText_GetLooseCharBox(page, start + word.start(), byref(first))
        FPDFText_GetLooseCharBox(page, start + word.end() - 1, byref(last))
        wide = _GAP * (first.top - first.bottom)
        if cell is not None and not 0 < wide < first.left - cell.right:
            cell = _Cell(f"{cell.text} {word[0]}", cell.left, last.right)
            continue
        if cell is not None:
            yield cell
        cell = _Cell(word[0], first.left, last.right)
    if cell is not None:
        yield cell


def _table(rows: list[list[_Cell]]) -> str | None:
    """Rows in Markdown, with empty cells where a column has none; None if it is not a table."""
    cells = [cell for row in rows for cell in row]
    if sum(len(cell.text) for cell in cells) > _MOST_CHARACTERS * len(cells):
        return None
    columns = list(_columns(cells))
    table = [["" for _ in columns] for _ in rows]
    for row, line in zip(rows, table, strict=True):
        for cell in row:
            place = next(i for i, right in enumerate(columns) if cell.right <= right)
            if line[place]:
                return None  # cells that span columns: what stands below what cannot be told
            line[place] = cell.text
    return f"\n{markdown_table(table)}\n"


def _columns(cells: Iterable[_Cell]) -> Iterator[float]:
    """Right ends of the columns: cells that stand above one another share theirs."""
    right = None
    for cell in sorted(cells, key=lambda cell: cell.left):
        if right is not None and cell.left >= right:
            yield right
        right = cell.right if right is None else max(right, cell.right)
    if right is not None:
        yield right
