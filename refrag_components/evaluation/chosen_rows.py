"""Rows with chunk embeddings, or whose chunks a policy chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from refrag_components.evaluation.method import Choices, Method, check_fraction, check_positions
from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import check_selection
from refrag_components.generation.choosing import Choice
from refrag_components.policies import FractionBudget, PositionBudget, Rest

__all__ = ["AllCompressed", "Drop", "Keep", "Ladder", "LadderText", "SameText"]


@dataclass(frozen=True)
class AllCompressed(Method):
    """Chunk embeddings only."""

    kind = "compressed"
    reads = "one chunk embedding per chunk (p=0), on each rung of the checkpoint"
    on_running_text = True
    compresses = True
    fraction = None
    selection = None
    rung: int | None = None

    @property
    def name(self) -> str:
        """The kind, and the rung if it is not the finest."""
        return self.kind if self.rung is None else f"{self.kind}-rung-{self.rung}"

    @property
    def label(self) -> str:
        """The p and the rung."""
        return "p=0" if self.rung is None else f"p=0, rung {self.rung}"

    def row(self, prompt: Prompt) -> Row:
        """The prompt with every chunk compressed."""
        nothing = prompt.chunks.every("compress", expanded=False)
        return prompt.laid_out(_on_rung(nothing, self.rung))

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per rung, the finest first."""
        return [cls(), *map(cls, choices.rungs)]


@dataclass(frozen=True)
class _Selected(Method):
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

    def _chosen(self, prompt: Prompt) -> Choice:
        """What becomes of the chunks with the rest compressed."""
        return prompt.chosen(self.selection, FractionBudget(self.fraction))


@dataclass(frozen=True)
class Keep(_Selected):
    """Chosen chunks expand, the rest is compressed: what the generator does."""

    kind = "keep"
    reads = (
        "the chunks that a policy expands as text, one chunk embedding for every other chunk, on "
        "each rung of the checkpoint"
    )
    on_running_text = True
    compresses = True
    rung: int | None = None

    @property
    def name(self) -> str:
        """The selection and p, and the rung if it is not the finest."""
        name = f"{self.selection}-{self.fraction:g}"
        return name if self.rung is None else f"{name}-rung-{self.rung}"

    @property
    def curve(self) -> str:
        """The selection, and the rung if it is not the finest."""
        return self.selection if self.rung is None else f"{self.selection}, rung {self.rung}"

    def row(self, prompt: Prompt) -> Row:
        """Chosen chunks as tokens, chunk embeddings for the rest."""
        choice = self._chosen(prompt)
        return prompt.laid_out(_on_rung(choice, self.rung), cut=bool(choice.warnings))

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per selection, p and rung."""
        names = dict.fromkeys(choices.selections)
        rungs = (None, *choices.rungs)
        return [cls(name, p, rung) for rung in rungs for p in choices.fractions for name in names]


class Drop(_Selected):
    """Chosen chunks expand, the rest is dropped."""

    kind = "drop"
    reads = "exactly the chunks that the policy expands as text; all others are deleted"

    @property
    def curve(self) -> str:
        """The selection, and that the rest is dropped."""
        return f"{self.selection}, rest dropped"

    def row(self, prompt: Prompt) -> Row:
        """Chosen chunks as tokens, nothing else of the context."""
        choice = self._chosen(prompt)  # as with the rest compressed, also where the window is short
        return prompt.laid_out(prompt.dropping(choice), cut=bool(choice.warnings))


@dataclass(frozen=True)
class SameText(_Selected):
    """The selection fills the positions of its compressed context with text only."""

    kind = "text"
    reads = (
        "the chunks that the policy ranks first as text, as many tokens as the context takes "
        "positions with p expanded and the rest compressed, on each rung of the checkpoint; the "
        "last one is cut"
    )
    rung: int | None = None

    @property
    def name(self) -> str:
        """The selection, p and the kind, and the rung if it is not the finest."""
        name = super().name
        return name if self.rung is None else f"{name}-rung-{self.rung}"

    @property
    def label(self) -> str:
        """The selection, and the p and rung with as many positions."""
        rung = "" if self.rung is None else f", rung {self.rung}"
        return f"{self.selection} as text, as p={self.fraction:g}{rung}"

    @property
    def curve(self) -> str:
        """The selection, that it is read as text, and the rung if it is not the finest."""
        rung = "" if self.rung is None else f", as rung {self.rung}"
        return f"{self.selection} as text{rung}"

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per selection, p and rung, including p = 0."""
        names = dict.fromkeys(choices.selections)
        fractions = dict.fromkeys((0.0, *choices.fractions))
        rungs = (None, *choices.rungs)
        return [cls(name, p, rung) for rung in rungs for p in fractions for name in names]

    def row(self, prompt: Prompt) -> Row:
        """The best chunks as tokens, as many as there are positions."""
        choice = self._chosen(prompt)
        room = prompt.chunks.positions(_on_rung(choice, self.rung))
        selected = prompt.best_chunks(prompt.scores[self.selection], room)
        return prompt.as_text(selected, cut=bool(choice.warnings))


@dataclass(frozen=True)
class _Filled(Method):
    """A row whose number of positions is given, and filled from the top.

    Raises:
        EvaluationError: If the number is less than 2.
        UnknownPolicyError: If there is no such selection.
    """

    fraction = None
    selection: str
    positions: int
    _rest: ClassVar[Rest]

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
        choice = prompt.chosen(self.selection, PositionBudget(self.positions), self._rest)
        return prompt.laid_out(choice, cut=prompt.limit < self.positions)


class Ladder(_Filled):
    """Best chunks as text, then passages on ever coarser rungs."""

    kind = "ladder"
    reads = (
        "as much as a number of positions holds, filled from the top: the chunks that a policy "
        "ranks first as text, then passages on ever coarser rungs; what does not fit is deleted"
    )
    compresses = True
    _rest = "compress"

    @property
    def label(self) -> str:
        """The positions and the selection."""
        return f"{self.positions} positions, {self.selection}"


class LadderText(_Filled):
    """As many positions, all of them text."""

    kind = "ladder-text"
    reads = (
        "the chunks that the policy ranks first as text, as many as the same number of positions "
        "holds; all others are deleted"
    )
    _rest = "drop"

    @property
    def label(self) -> str:
        """The positions, the selection, and that it is read as text."""
        return f"{self.positions} positions, {self.selection} as text"


def _on_rung(choice: Choice, rung: int | None) -> Choice:
    """The same chunks expand; the rest of every passage is on a coarser rung."""
    return choice if rung is None else replace(choice, rungs=np.full_like(choice.rungs, rung))
