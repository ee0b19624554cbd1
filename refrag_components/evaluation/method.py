"""What a row of a comparison is, and what rows may choose from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import SELECTIONS
from refrag_components.exceptions import EvaluationError

__all__ = [
    "FRACTIONS",
    "POSITIONS",
    "Choices",
    "Method",
    "check_fraction",
    "check_positions",
    "describe",
]

#: Expanded fractions p at which selections are compared.
FRACTIONS = (0.05, 0.1, 0.25, 0.5)

#: Numbers of decoder positions that are filled from the top.
POSITIONS = (64, 128)


@dataclass(frozen=True)
class Choices:
    """What the rows of a comparison may choose from.

    Attributes:
        selections: Names of selections.
        fractions: Expanded fractions p, above 0.
        positions: Numbers of decoder positions for all passages, at least 2.
        rungs: The checkpoint's rungs beyond the finest: tokens per chunk embedding.
    """

    selections: Sequence[str] = SELECTIONS
    fractions: Sequence[float] = FRACTIONS
    positions: Sequence[int] = POSITIONS
    rungs: Sequence[int] = ()


class Method(ABC):
    """One row of a comparison: what becomes of a context before the decoder reads it.

    Attributes:
        kind: Name of this kind of rows.
        reads: What the decoder reads, in words.
        on_running_text: Whether running text, which has no passages, can be measured with it.
        compresses: Whether chunk embeddings are read.
        fraction: Fraction p of the chunks that expand, or that sets the number of positions; None
            if there is no such choice.
        selection: Name of what chooses chunks; None if nothing is chosen.
        positions: Number of decoder positions that is filled; None if there is no such budget.
        rung: Tokens per chunk embedding; None for the finest rung, or if the row has none or
            several.
    """

    kind: ClassVar[str]
    reads: ClassVar[str]
    on_running_text: ClassVar[bool] = False
    compresses: ClassVar[bool] = False
    fraction: float | None
    selection: str | None
    positions: int | None = None
    rung: int | None = None

    @property
    def name(self) -> str:
        """Unique name of the row, which can be used as a file name."""
        return self.kind

    @property
    @abstractmethod
    def label(self) -> str:
        """The name in tables."""

    @property
    def curve(self) -> str | None:
        """Common name of all rows that differ only in p; None without a p."""
        return None

    @abstractmethod
    def row(self, prompt: Prompt) -> Row:
        """Makes the decoder's input from a prompt."""

    @classmethod
    @abstractmethod
    def each(cls, choices: Choices) -> list[Self]:
        """All rows of this kind."""


def describe(method: Method) -> dict[str, Any]:
    """A row's name and its labels in tables and plots, for JSON."""
    return {
        "method": method.name,
        "kind": method.kind,
        "selection": method.selection,
        "fraction": method.fraction,
        "positions_allowed": method.positions,
        "rung": method.rung,
        "label": method.label,
        "curve": method.curve,
        "compresses": method.compresses,
    }


def check_fraction(fraction: float) -> None:
    """Refuses a fraction p outside its range.

    Raises:
        EvaluationError: If it is.
    """
    if not 0 <= fraction <= 1:
        raise EvaluationError(f"the expanded fraction must be from 0 to 1, got {fraction!r}")


def check_positions(number: int) -> None:
    """Refuses a number of positions outside its range.

    Raises:
        EvaluationError: If it is.
    """
    if number < 2:
        raise EvaluationError(f"a number of positions must be at least 2, got {number}")
