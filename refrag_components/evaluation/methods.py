"""The rows of a comparison: what becomes of the context before the decoder reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refrag_components.evaluation.selections import SELECTIONS, check_selection
from refrag_components.exceptions import EvaluationError

__all__ = ["COMPRESSED", "FRACTIONS", "FULL", "NONE", "Method", "default_methods"]

#: Expanded fractions p that selections are compared at.
FRACTIONS = (0.05, 0.1, 0.25, 0.5)

_PLAIN = ("last", "fewer")  # plain text that takes the positions of a compressed context


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    Attributes:
        way: "none" (no context), "full" (all of it as tokens), "compressed" (p = 0), "last" (its
            last K tokens), "fewer" (fewer passages, the most similar to the question first, K
            tokens in all), or the name of a selection that expands chunks.
        fraction: Fraction p of the chunks that expand, in [0, 1]. For "last" and "fewer", K is
            the number of positions that a context takes at this p.

    Raises:
        EvaluationError: If the fraction is outside its range.
        UnknownPolicyError: If there is no such way and no such selection.
    """

    way: str
    fraction: float = 0.0

    def __post_init__(self) -> None:
        """Checks the name and the range."""
        if not 0 <= self.fraction <= 1:
            msg = f"the expanded fraction must lie in 0..1, got {self.fraction!r}"
            raise EvaluationError(msg)
        if self.way not in ("none", "full", "compressed", *_PLAIN):
            check_selection(self.way)

    @property
    def name(self) -> str:
        """The way, with the fraction where there is one to choose."""
        return self.way if self.is_fixed else f"{self.way}-{self.fraction:g}"

    @property
    def is_fixed(self) -> bool:
        """Whether the way leaves no fraction to choose."""
        return self.way in ("none", "full", "compressed")

    @property
    def is_selection(self) -> bool:
        """Whether chunks are chosen to expand."""
        return not self.is_fixed and self.way not in _PLAIN

    @property
    def label(self) -> str:
        """The name as a reader of tables knows it."""
        labels = {
            "none": "no context",
            "full": "full context",
            "compressed": "p=0",
            "last": f"last tokens, as p={self.fraction:g}",
            "fewer": f"fewer passages, as p={self.fraction:g}",
        }
        return labels.get(self.way, f"p={self.fraction:g}, {self.way}")


NONE, FULL, COMPRESSED = Method("none"), Method("full"), Method("compressed")


def default_methods(
    selections: Sequence[str] = SELECTIONS,
    fractions: Sequence[float] = FRACTIONS,
    *,
    fewer_passages: bool = True,
) -> list[Method]:
    """All rows: the fixed ways, plain text at equal positions, every selection at every p.

    Args:
        selections: Names of selections.
        fractions: Expanded fractions p, above 0.
        fewer_passages: Whether the context has passages that could be left out.
    """
    plain = [way for way in _PLAIN if way != "fewer" or fewer_passages]
    return [
        NONE,
        FULL,
        COMPRESSED,
        *(Method(way, p) for p in dict.fromkeys((0.0, *fractions)) for way in plain),
        *(Method(name, p) for p in fractions for name in dict.fromkeys(selections)),
    ]
