"""Documents to passages that say by themselves where they belong."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from refrag_components.text.splitting import CountTokens, split_passages

__all__ = ["PASSAGES_VERSION", "PlacedPassage", "document_passages", "placed_passages"]

PASSAGES_VERSION = 3
"""Raised when documents are cut differently, so that an index cuts its documents again."""

_LINE = re.compile(r"^[^\n]+", re.MULTILINE)
_HEADING = re.compile(r"(#{1,6})[^\S\n]+(.+?)[^\S\n#]*")
_RULE = re.compile(r"[^\S\n]*\|(?:[\s:|-]*-[\s:|-]*)")
_SHARE = 4  # of a passage's tokens, its context may take each such part


class PlacedPassage(NamedTuple):
    """A passage and where it begins in its document, without its context."""

    text: str
    start: int


def document_passages(
    text: str,
    count_tokens: CountTokens,
    max_tokens: int = 256,
    *,
    title: str = "",
    code: bool = False,
) -> list[str]:
    """The texts of ``placed_passages``."""
    placed = placed_passages(text, count_tokens, max_tokens, title=title, code=code)
    return [passage.text for passage in placed]


def placed_passages(
    text: str,
    count_tokens: CountTokens,
    max_tokens: int = 256,
    *,
    title: str = "",
    code: bool = False,
) -> list[PlacedPassage]:
    """Splits a document into passages, see ``split_passages``, each with its context.

    The document's title and the nearest heading stand before a passage, and the head of a table
    before each piece of it, unless the passage begins with them or they take more than a quarter of
    the tokens. A document without a title has its first heading as one, if that stands above all
    others.

    Args:
        text: The document; headings and tables as in Markdown.
        count_tokens: Returns the number of tokens of each text in a list.
        max_tokens: Most tokens of a passage with its context, at least 1.
        title: The document's title.
        code: The text is code: what looks like headings and tables in it is none.

    Returns:
        The passages in order, none of them empty.
    """
    outline = _Outline("" if code else text, " ".join(title.split()))
    contexts = sorted(outline.contexts())
    limit = max_tokens // _SHARE
    costs = dict(zip(contexts, count_tokens(contexts), strict=True)) if contexts else {}
    allowed = {context for context, tokens in costs.items() if tokens + 1 <= limit}
    heads, lines = (
        max((costs[c] for c in allowed if c.startswith("|") == table), default=-1) + 1
        for table in (True, False)
    )
    plain = split_passages(text, count_tokens, max_tokens - heads - lines)
    whole = list(_placed(text, plain, outline, allowed))
    counts = [0] * len(whole)
    if allowed and whole:
        counts = list(count_tokens([passage.text for passage in whole]))
    return [
        PlacedPassage(passage, full.start) if tokens > max_tokens else full
        for passage, full, tokens in zip(plain, whole, counts, strict=True)
    ]


def _placed(
    text: str, passages: list[str], outline: _Outline, allowed: set[str]
) -> Iterator[PlacedPassage]:
    """Passages with those of their contexts that are allowed."""
    end = 0
    for passage in passages:
        start = text.index(passage, end)
        end = start + len(passage)
        line, head = outline.context_at(start)
        if head in allowed:
            passage = f"{head}\n{passage}"
        yield PlacedPassage(f"{line}\n\n{passage}" if line in allowed else passage, start)


class _Outline:
    """Headings and tables of a document, and what of them holds at a place."""

    def __init__(self, text: str, title: str) -> None:
        self._headings: list[tuple[int, int, str]] = []  # start, end, heading
        self._tables: list[tuple[int, int, str]] = []  # end of the head, end of the table, head
        code, rows = False, 0
        highest: list[str] = []
        before: re.Match[str] | None = None
        for line in _LINE.finditer(text):
            follows = before is not None and line.start() == before.end() + 1
            if line[0].lstrip().startswith("```"):
                code = not code
            elif code:
                pass
            elif heading := _HEADING.fullmatch(line[0]):
                self._headings.append((line.start(), line.end(), heading[2]))
                if heading[1] == "#":
                    highest.append(heading[2])
            elif not line[0].lstrip().startswith("|"):
                rows = 0
            else:
                rows = rows + 1 if follows else 1
                if before is not None and rows == 2 and _RULE.fullmatch(line[0]):
                    head = text[before.start() : line.end()]
                    self._tables.append((line.end(), line.end(), head))
                elif rows > 2 and self._tables:
                    self._tables[-1] = (self._tables[-1][0], line.end(), self._tables[-1][2])
            before = line
        first = self._headings[0] if self._headings else (-1, -1, "")
        alone = highest == [first[2]] and not text[: first[0]].strip()
        self._title = title or (first[2] if alone else "")

    def contexts(self) -> set[str]:
        """All that any passage may need."""
        lines = {self._line(heading) for _, _, heading in self._headings}
        return {c for c in (*lines, self._title, *(head for _, _, head in self._tables)) if c}

    def context_at(self, place: int) -> tuple[str, str]:
        """What stands before a passage that begins here: a line, and the head of its table."""
        index = bisect_right(self._headings, place, key=lambda heading: heading[0]) - 1
        start, _, heading = self._headings[index] if index >= 0 else (-1, -1, "")
        table = bisect_right(self._tables, place, key=lambda table: table[0]) - 1
        head = self._tables[table][2] if table >= 0 and place < self._tables[table][1] else ""
        if start == place:  # the passage shows it
            return ("" if _same(self._title, heading) else self._title), head
        return self._line(heading), head

    def _line(self, heading: str) -> str:
        if not heading or _same(self._title, heading):
            return self._title or heading
        return f"{self._title} > {heading}" if self._title else heading


def _same(title: str, heading: str) -> bool:
    """Whether a title says no more than a heading, as "Tides - Harbour of Eastport" of a page."""
    return title.casefold().startswith(heading.casefold())
