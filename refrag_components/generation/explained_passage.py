"""What became of each chunk of a passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ExplainedPassage", "Fate", "Piece"]

Fate = Literal["expanded", "compressed", "dropped"]
"""Entered as tokens, within a chunk embedding, or not at all."""


@dataclass(frozen=True)
class Piece:
    """A chunk of a passage, or chunks that share a chunk embedding.

    Attributes:
        text: Its characters.
        fate: What became of it.
        positions: Decoder positions that it took.
        score: What the policy gave it, on that policy's own scale, the highest of its chunks; None
            if there was nothing to choose.
    """

    text: str
    fate: Fate
    positions: int
    score: float | None = None


@dataclass(frozen=True)
class ExplainedPassage:
    """A passage of a prompt.

    Attributes:
        pieces: Its text in order.
        tokens: Tokens of the whole passage.
        rung: Tokens per chunk embedding of what was compressed; 0 if nothing could be.
        source: Where it comes from; "" if that is unknown.
        score: How similar the search found it to the question; None if that is unknown.
    """

    pieces: tuple[Piece, ...]
    tokens: int
    rung: int
    source: str = ""
    score: float | None = None

    @property
    def positions(self) -> int:
        """Decoder positions that it took."""
        return sum(piece.positions for piece in self.pieces)

    @property
    def text(self) -> str:
        """Its characters."""
        return "".join(piece.text for piece in self.pieces)
