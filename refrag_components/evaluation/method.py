"""What a row of a comparison is, what rows may choose from, and the families of rows.

Tables list the families in the order in which they stand here.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import SELECTIONS, check_selection
from refrag_components.exceptions import EvaluationError
from refrag_components.generation.choosing import Choice, choose
from refrag_components.policies import FractionBudget, PositionBudget, Rest

__all__ = [
    "FRACTIONS",
    "POSITIONS",
    "AsManyPositions",
    "Choices",
    "Filled",
    "Fixed",
    "Method",
    "Selected",
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


@dataclass(frozen=True)
class Fixed(Method):
    """A row without a choice of chunks."""

    fraction = None
    selection = None

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """The one row."""
        return [cls()]


@dataclass(frozen=True)
class AsManyPositions(Method):
    """Plain text in as many positions as a context takes with a fraction p expanded.

    Raises:
        EvaluationError: If the fraction is outside its range.
    """

    selection = None
    fraction: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range."""
        check_fraction(self.fraction)

    @property
    def name(self) -> str:
        """The kind and p."""
        return f"{self.kind}-{self.fraction:g}"

    @property
    def label(self) -> str:
        """What is read, and the p with as many positions."""
        return f"{self.curve}, as p={self.fraction:g}"

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per p, including p = 0."""
        return [cls(p) for p in dict.fromkeys((0.0, *choices.fractions))]

    def room(self, prompt: Prompt) -> int:
        """The most positions that any choice of a fraction p of the chunks takes."""
        chunks = prompt.chunks
        gained = chunks.by_run(chunks.lengths) - chunks.by_run(np.ones_like(chunks.lengths))
        scores = chunks.of_runs(gained).astype(np.float32)  # the runs that take most come first
        budget = FractionBudget(self.fraction)
        most = choose(scores, chunks, budget, "compress", sys.maxsize)
        return min(chunks.positions(most), prompt.limit)


@dataclass(frozen=True)
class Selected(Method):
    """A row whose chunks are chosen by a selection.

    Raises:
        EvaluationError: If the fraction is outside its range.
        UnknownPolicyError: If there is no such selection.
    """

    selection: str
    fraction: float

    def __post_init__(self) -> None:
        """Checks the name and the range."""
        check_selection(self.selection)
        check_fraction(self.fraction)

    @property
    def name(self) -> str:
        """The selection, p and the kind."""
        return f"{self.selection}-{self.fraction:g}-{self.kind}"

    @property
    def label(self) -> str:
        """What is read, and at which p."""
        return f"p={self.fraction:g}, {self.curve}"

    @property
    def curve(self) -> str:
        """The selection."""
        return self.selection

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per selection and p."""
        names = dict.fromkeys(choices.selections)
        return [cls(name, p) for p in choices.fractions for name in names]

    def chosen(self, prompt: Prompt) -> Choice:
        """What becomes of the chunks with the rest compressed."""
        return prompt.chosen(self.selection, FractionBudget(self.fraction))


@dataclass(frozen=True)
class Filled(Method):
    """A row whose number of positions is given, and filled from the top.

    Raises:
        EvaluationError: If the number is less than 2.
        UnknownPolicyError: If there is no such selection.
    """

    fraction = None
    selection: str
    positions: int
    rest: ClassVar[Rest]

    def __post_init__(self) -> None:
        """Checks the name and the range."""
        check_selection(self.selection)
        check_positions(self.positions)

    @property
    def name(self) -> str:
        """The selection, the positions and the kind."""
        return f"{self.selection}-{self.positions}-{self.kind}"

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per selection and number of positions."""
        names = dict.fromkeys(choices.selections)
        return [cls(name, number) for number in choices.positions for name in names]

    def row(self, prompt: Prompt) -> Row:
        """As the generator fills a budget of positions."""
        choice = prompt.chosen(self.selection, PositionBudget(self.positions), self.rest)
        return prompt.laid_out(choice, cut=prompt.limit < self.positions)


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
