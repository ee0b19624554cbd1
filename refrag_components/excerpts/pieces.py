"""Passages cut into pieces that are read or left out as a whole, and put together again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from refrag_components.text.splitting import sentence_spans

__all__ = ["UNITS", "Excerpt", "Piece", "Unit", "cut", "excerpt"]

#: What is read or left out as a whole: a sentence, or the words that a chunk touches.
Unit = Literal["sentences", "words"]

UNITS: tuple[Unit, ...] = ("sentences", "words")

GAP = " […] "

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Piece:
    """A part of a passage that is read or left out as a whole.

    Attributes:
        start: First character in the passage.
        end: The character after its last.
        score: Of its best chunk; higher is read first.
        kept: True if it is read whatever its score, because something in it is protected.
    """

    start: int
    end: int
    score: float
    kept: bool


@dataclass(frozen=True)
class Excerpt:
    """What is read of a passage.

    Attributes:
        text: The pieces that are read, in order; ``GAP`` stands where text was left out between
            two of them. "" if nothing is read.
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
        The pieces in order. They hold whole words and cover all of them.
    """
    spans = sentence_spans(text) if unit == "sentences" else _words_of_chunks(text, bounds)
    found = [m.span() for pattern in protected for m in pattern.finditer(text) if m[0]]
    pieces = []
    for start, end in spans:
        # A piece between the characters of two chunks belongs to the earlier one.
        first = max(int(np.searchsorted(bounds[:, 0], start, side="right")) - 1, 0)
        last = max(int(np.searchsorted(bounds[:, 0], end, side="left")), first + 1)
        kept = any(left < end and start < right for left, right in found)
        pieces.append(Piece(start, end, float(scores[first:last].max()), kept))
    return pieces


def excerpt(text: str, pieces: Sequence[Piece], read: Iterable[int], best: float) -> Excerpt:
    """Puts the pieces that are read together, with the white space of the passage between them.

    Args:
        text: The passage.
        pieces: Its pieces.
        read: Indices of those that are read.
        best: The score of the passage's best chunk.
    """
    spans: list[tuple[int, int]] = []
    for i in sorted(read):
        start, end = pieces[i].start, pieces[i].end
        if spans and not text[spans[-1][1] : start].strip():
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return Excerpt(GAP.join(text[start:end] for start, end in spans), tuple(spans), best)


def _words_of_chunks(text: str, bounds: np.ndarray) -> list[tuple[int, int]]:
    """Each word goes with the chunk that its first character is in."""
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        return []
    chunk = np.searchsorted(bounds[:, 0], [start for start, _ in words], side="right")
    firsts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(words)]
    return [(words[a][0], words[b - 1][1]) for a, b in pairwise(firsts)]
