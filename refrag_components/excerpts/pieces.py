"""Passages cut into pieces that are read or left out as a whole, and put together again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from refrag_components.text.splitting import sentence_spans

__all__ = ["UNITS", "Excerpt", "Piece", "Unit", "cut", "excerpt", "in_words"]

#: What is read or left out as a whole: a sentence, or the words that a chunk touches.
Unit = Literal["sentences", "words"]

UNITS: tuple[Unit, ...] = ("sentences", "words")

GAP = " […] "
#: Where rows of a table were left out: a row, so that it is a table still.
ROW_GAP = "\n| […] |\n"
#: Between a table and other text.
LINE_GAP = "\n[…]\n"

_WORD = re.compile(r"\S+")
# Its first line and the rule below it, then its rows.
_TABLE = re.compile(
    r"^([ \t]*\|[^\n]*\n[ \t]*\|[ \t:|]*-[ \t:|-]*)((?:\n[ \t]*\|[^\n]*)+)", re.MULTILINE
)


@dataclass(frozen=True)
class Piece:
    """A part of a passage that is read or left out as a whole.

    Attributes:
        start: First character in the passage.
        end: The character after its last.
        score: Of its best chunk; higher is read first.
        protected: True if it is read whatever its score, because something in it is protected.
        head: For a part of a table's rows, the first character of the table's head, which is a
            piece of its own and read with it; None for all other pieces.
    """

    start: int
    end: int
    score: float
    protected: bool
    head: int | None = None


@dataclass(frozen=True)
class Excerpt:
    """What is read of a passage.

    Attributes:
        text: The pieces that are read, in order; ``GAP`` stands where text was left out between
            two of them, ``ROW_GAP`` within a table and ``LINE_GAP`` before and after one. "" if
            nothing is read.
        spans: First character of each stretch in the passage and the one after its last. They do
            not overlap and are in order.
        score: Of the passage's best chunk.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    score: float

    def moved(self, by: int) -> Excerpt:
        """The same of a passage with so many more characters at its beginning."""
        return replace(self, spans=tuple((start + by, end + by) for start, end in self.spans))


def cut(
    text: str,
    bounds: np.ndarray,
    scores: np.ndarray,
    unit: Unit,
    protected: Iterable[re.Pattern[str]],
) -> list[Piece]:
    """Cuts a passage into pieces.

    Args:
        text: The passage.
        bounds: First character of each chunk and the one after its last, (n_chunks, 2), ascending.
        scores: One per chunk, (n_chunks,).
        unit: What a piece is.
        protected: What must be read: pieces that a match touches.

    Returns:
        The pieces in order. They hold whole words and cover all of them. The head of a table is a
        piece.
    """
    spans = sentence_spans(text) if unit == "sentences" else _words_of_chunks(text, bounds)
    tables = [(*m.span(1), m.end(2)) for m in _TABLE.finditer(text)]
    found = [m.span() for pattern in protected for m in pattern.finditer(text) if m[0]]
    pieces = []
    for start, end in _with_heads(text, spans, tables):
        head = next((first for first, last, to in tables if last <= start < to), None)
        touched = any(left < end and start < right for left, right in found)
        pieces.append(Piece(start, end, _best(start, end, bounds, scores), touched, head))
    needed = {piece.head for piece in pieces if piece.protected}
    return [replace(p, protected=True) if p.start in needed else p for p in pieces]


def in_words(piece: Piece, text: str, bounds: np.ndarray, scores: np.ndarray) -> list[Piece]:
    """Cuts a piece into the words of its chunks.

    Args:
        piece: A piece of the passage.
        text: The passage.
        bounds: As for ``cut``.
        scores: As for ``cut``.
    """
    spans = _words_of_chunks(text, bounds, piece.start, piece.end)
    return [
        replace(piece, start=start, end=end, score=_best(start, end, bounds, scores))
        for start, end in spans
    ]


def excerpt(text: str, pieces: Sequence[Piece], read: Iterable[int], best: float) -> Excerpt:
    """Puts the pieces that are read together, with the white space of the passage between them.

    Args:
        text: The passage.
        pieces: Its pieces.
        read: Indices of those that are read.
        best: The score of the passage's best chunk.
    """
    heads = {piece.head for piece in pieces}
    spans: list[tuple[int, int]] = []
    shown, table = "", None
    for i in sorted(read):
        start, end = pieces[i].start, pieces[i].end
        before, table = table, start if start in heads else pieces[i].head
        if not spans:
            spans.append((start, end))
            shown = text[start:end]
            continue
        between = text[spans[-1][1] : start]
        if not between.strip():
            spans[-1] = (spans[-1][0], end)
            shown += between + text[start:end]
            continue
        gap = GAP
        if "\n" in between and (before, table) != (None, None):
            gap = ROW_GAP if before == table else LINE_GAP
        spans.append((start, end))
        shown += gap + text[start:end]
    return Excerpt(shown, tuple(spans), best)


def _best(start: int, end: int, bounds: np.ndarray, scores: np.ndarray) -> float:
    """The score of the best chunk between two characters."""
    # A piece between the characters of two chunks belongs to the earlier one.
    first = max(int(np.searchsorted(bounds[:, 0], start, side="right")) - 1, 0)
    last = max(int(np.searchsorted(bounds[:, 0], end, side="left")), first + 1)
    return float(scores[first:last].max())


def _with_heads(
    text: str, spans: Iterable[tuple[int, int]], tables: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """The spans, with the head of each table as one of them."""
    edges = {place for table in tables for place in table}
    for left, right in spans:
        places = [left, *sorted(place for place in edges if left < place < right), right]
        for start, end in pairwise(places):
            inner = text[start:end]
            start += len(inner) - len(inner.lstrip())
            end = start + len(inner.strip())
            if start == end:  # the white space between two tables
                continue
            head = next((t for t in tables if t[0] <= start < t[1]), None)
            if head is None:
                yield start, end
            elif not text[head[0] : start].strip():  # the first part of it
                yield head[0], head[1]


def _words_of_chunks(
    text: str, bounds: np.ndarray, start: int = 0, end: int | None = None
) -> list[tuple[int, int]]:
    """Each word of a part of the text goes with the chunk that its first character is in."""
    words = [
        (start + match.start(), start + match.end()) for match in _WORD.finditer(text[start:end])
    ]
    if not words:
        return []
    chunk = np.searchsorted(bounds[:, 0], [first for first, _ in words], side="right")
    firsts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(words)]
    return [(words[a][0], words[b - 1][1]) for a, b in pairwise(firsts)]
