"""The rows of a comparison: what the decoder reads of a context.

``METHODS`` lists the kinds of rows. The command line, the tables, the plots and the documentation
take names and descriptions from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from refrag_components.evaluation.chosen_rows import (
    Drop,
    Keep,
    Ladder,
    LadderText,
    SameText,
)
from refrag_components.evaluation.method import (
    FRACTIONS,
    POSITIONS,
    AsManyPositions,
    Choices,
    Fixed,
    Method,
    check_positions,
    describe,
)
from refrag_components.evaluation.rows import Prompt, Row, on_rung
from refrag_components.evaluation.selections import SELECTIONS
from refrag_components.exceptions import EvaluationError
from refrag_components.subclasses import concrete_classes

__all__ = [
    "COMPRESSED",
    "FRACTIONS",
    "FULL",
    "GOLD",
    "METHODS",
    "NONE",
    "POSITIONS",
    "AllCompressed",
    "AllText",
    "AnsweringPassages",
    "Choices",
    "Drop",
    "FewerPassages",
    "FirstTokens",
    "Keep",
    "Ladder",
    "LadderText",
    "LastTokens",
    "Latest",
    "Method",
    "NoContext",
    "SameText",
    "default_methods",
    "describe",
]


class NoContext(Fixed):
    """The question alone."""

    kind = "none"
    reads = "the question alone"
    label = "no context"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """The prompt without passages."""
        return prompt.bare()


class AllText(Fixed):
    """The plain prompt."""

    kind = "full"
    reads = (
        "all passages as text; if they do not fit the window, those most similar to the question "
        "that fit"
    )
    label = "full context"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """The whole text, or what fits the window."""
        cut = prompt.context_tokens > prompt.limit
        return prompt.as_text(prompt.most_similar(prompt.limit), cut=cut)


class AnsweringPassages(Fixed):
    """What a perfect ranking of the same passages would keep."""

    kind = "gold"
    reads = (
        "only those of the passages that answer the question, or that it was asked about, as text"
    )
    label = "answering passages alone"

    def row(self, prompt: Prompt) -> Row:
        """The text of the answering passages; without any, the prompt has no context."""
        selected = prompt.in_context & np.r_[prompt.answering, False][prompt.passage_of]
        cut = bool(selected.sum() > prompt.limit)
        selected &= np.cumsum(selected) <= prompt.limit
        return prompt.as_text(selected, cut=cut)


@dataclass(frozen=True)
class AllCompressed(Fixed):
    """Chunk embeddings only."""

    kind = "compressed"
    reads = "one chunk embedding per chunk (p=0), on each rung of the checkpoint"
    on_running_text = True
    compresses = True
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
        return prompt.laid_out(on_rung(nothing, self.rung))

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per rung, the finest first."""
        return [cls(), *map(cls, choices.rungs)]


class LastTokens(AsManyPositions):
    """The end of the context."""

    kind = "last"
    reads = (
        "the last tokens of the context as text, as many as the context takes positions with p "
        "expanded"
    )
    curve = "last tokens"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """The last tokens; earlier passages are left out."""
        return prompt.as_text(_last(prompt, self.room(prompt)))


class FirstTokens(AsManyPositions):
    """The beginning of the context."""

    kind = "first"
    reads = (
        "the first tokens of the context as text, as many as the context takes positions with p "
        "expanded"
    )
    curve = "first tokens"

    def row(self, prompt: Prompt) -> Row:
        """The first tokens; later passages are left out."""
        inside = prompt.in_context
        return prompt.as_text(inside & (np.cumsum(inside) <= self.room(prompt)))


@dataclass(frozen=True)
class Latest(Method):
    """The end of the context, as much as a number of positions holds.

    Raises:
        EvaluationError: If the number is less than 2.
    """

    kind = "latest"
    reads = "the last tokens of the context as text, as many as a number of positions holds"
    fraction = None
    selection = None
    positions: int

    def __post_init__(self) -> None:
        """Checks the range."""
        check_positions(self.positions)

    @property
    def name(self) -> str:
        """The kind and the positions."""
        return f"{self.kind}-{self.positions}"

    @property
    def label(self) -> str:
        """The positions, and what fills them."""
        return f"{self.positions} positions, last tokens"

    def row(self, prompt: Prompt) -> Row:
        """The last tokens; earlier passages are left out."""
        return prompt.as_text(_last(prompt, min(self.positions, prompt.limit)))

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """One row per number of positions."""
        return [cls(number) for number in choices.positions]


class FewerPassages(AsManyPositions):
    """The most similar passages."""

    kind = "fewer"
    reads = (
        "fewer passages as text, those most similar to the question, as many tokens as the context "
        "takes positions with p expanded; the last one is cut"
    )
    curve = "fewer passages"

    def row(self, prompt: Prompt) -> Row:
        """The most similar passages."""
        return prompt.as_text(prompt.most_similar(self.room(prompt)))


def _last(prompt: Prompt, room: int) -> np.ndarray:
    """The last tokens of the context, at most ``room``: a mask of shape (n,), bool."""
    in_context = prompt.in_context
    from_the_end = np.cumsum(in_context[::-1])[::-1]
    last: np.ndarray = in_context & (from_the_end <= room)
    return last


#: All kinds of rows, in the order of tables: family by family, each in the order of definition.
METHODS: tuple[type[Method], ...] = tuple(concrete_classes(Method))

NONE, FULL, GOLD, COMPRESSED = NoContext(), AllText(), AnsweringPassages(), AllCompressed()


def default_methods(
    selections: Sequence[str] = SELECTIONS,
    fractions: Sequence[float] = FRACTIONS,
    *,
    positions: Sequence[int] = POSITIONS,
    rungs: Sequence[int] = (),
    kinds: Sequence[str] = (),
    running_text: bool = False,
) -> list[Method]:
    """All rows of the given kinds, for every selection and every p.

    Args:
        selections: Names of selections.
        fractions: Expanded fractions p, above 0.
        positions: Numbers of decoder positions to fill.
        rungs: The checkpoint's rungs beyond the finest.
        kinds: Kinds of rows, from ``METHODS``; all by default.
        running_text: Only kinds that can be measured on running text.

    Raises:
        EvaluationError: If there is no such kind, or a number is outside its range.
        UnknownPolicyError: If there is no such selection.
    """
    choices = Choices(selections, fractions, positions, rungs)
    known = [method.kind for method in METHODS]
    if unknown := [kind for kind in kinds if kind not in known]:
        raise EvaluationError(f"unknown method {unknown[0]!r}; choose from {', '.join(known)}")
    chosen = [
        method
        for method in METHODS
        if (not kinds or method.kind in kinds) and (method.on_running_text or not running_text)
    ]
    return [row for method in chosen for row in method.each(choices)]
