"""Rows whose chunks a selection chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from refrag_components.evaluation.method import Choices, Filled, Selected
from refrag_components.evaluation.rows import Prompt, Row, on_rung

__all__ = ["Drop", "Keep", "Ladder", "LadderText", "SameText"]


@dataclass(frozen=True)
class Keep(Selected):
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
        choice = self.chosen(prompt)
        return prompt.laid_out(on_rung(choice, self.rung), cut=bool(choice.warnings))

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per selection, p and rung."""
        names = dict.fromkeys(choices.selections)
        rungs = (None, *choices.rungs)
        return [cls(name, p, rung) for rung in rungs for p in choices.fractions for name in names]


class Drop(Selected):
    """Chosen chunks expand, the rest is dropped."""

    kind = "drop"
    reads = "exactly the chunks that the policy expands as text; all others are deleted"

    @property
    def curve(self) -> str:
        """The selection, and that the rest is dropped."""
        return f"{self.selection}, rest dropped"

    def row(self, prompt: Prompt) -> Row:
        """Chosen chunks as tokens, nothing else of the context."""
        choice = self.chosen(prompt)  # as with the rest compressed, also where the window is short
        return prompt.laid_out(on_rung(choice, 0), cut=bool(choice.warnings))


@dataclass(frozen=True)
class SameText(Selected):
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
        choice = self.chosen(prompt)
        room = prompt.chunks.positions(on_rung(choice, self.rung))
        selected = prompt.best_chunks(prompt.scores[self.selection], room)
        return prompt.as_text(selected, cut=bool(choice.warnings))


class Ladder(Filled):
    """Best chunks as text, then passages on ever coarser rungs."""

    kind = "ladder"
    reads = (
        "as much as a number of positions holds, filled from the top: the chunks that a policy "
        "ranks first as text, then passages on ever coarser rungs; what does not fit is deleted"
    )
    compresses = True
    rest = "compress"

    @property
    def label(self) -> str:
        """The positions and the selection."""
        return f"{self.positions} positions, {self.selection}"


class LadderText(Filled):
    """As many positions, all of them text."""

    kind = "ladder-text"
    reads = (
        "the chunks that the policy ranks first as text, as many as the same number of positions "
        "holds; all others are deleted"
    )
    rest = "drop"

    @property
    def label(self) -> str:
        """The positions, the selection, and that it is read as text."""
        return f"{self.positions} positions, {self.selection} as text"
