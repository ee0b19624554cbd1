"""The rows of a comparison: what the decoder reads of a context.

``METHODS`` lists the kinds of rows. The command line, the tables, the plots and the documentation
take names and descriptions from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import SELECTIONS, check_selection
from refrag_components.exceptions import EvaluationError

__all__ = [
    "COMPRESSED",
    "FRACTIONS",
    "FULL",
    "GOLD",
    "METHODS",
    "NONE",
    "AllCompressed",
    "AllText",
    "AnsweringPassages",
    "Drop",
    "FewerPassages",
    "Keep",
    "LastTokens",
    "Method",
    "NoContext",
    "SameText",
    "default_methods",
    "describe",
]

#: Expanded fractions p at which selections are compared.
FRACTIONS = (0.05, 0.1, 0.25, 0.5)


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
    """

    kind: ClassVar[str]
    reads: ClassVar[str]
    on_running_text: ClassVar[bool] = False
    compresses: ClassVar[bool] = False
    fraction: float | None
    selection: str | None

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
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """All rows of this kind for the given selections and fractions p above 0."""


@dataclass(frozen=True)
class _Fixed(Method):
    """A row without a choice."""

    fraction = None
    selection = None

    @classmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """The one row."""
        return [cls()]


class NoContext(_Fixed):
    """The question alone."""

    kind = "none"
    reads = "the question alone"
    label = "no context"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """The prompt without passages."""
        return prompt.bare()


class AllText(_Fixed):
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


class AnsweringPassages(_Fixed):
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


class AllCompressed(_Fixed):
    """Chunk embeddings only."""

    kind = "compressed"
    reads = "one chunk embedding per chunk (p=0)"
    label = "p=0"
    on_running_text = True
    compresses = True

    def row(self, prompt: Prompt) -> Row:
        """The prompt with every chunk compressed."""
        return prompt.compressed(np.zeros(len(prompt.lengths), dtype=bool))


@dataclass(frozen=True)
class _AsManyPositions(Method):
    """Plain text in as many positions as a context takes with a fraction p expanded.

    Raises:
        EvaluationError: If the fraction is outside its range.
    """

    selection = None
    fraction: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range."""
        _check_fraction(self.fraction)

    @property
    def name(self) -> str:
        """The kind and p."""
        return f"{self.kind}-{self.fraction:g}"

    @property
    def label(self) -> str:
        """What is read, and the p with as many positions."""
        return f"{self.curve}, as p={self.fraction:g}"

    @classmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """One row per p, including p = 0."""
        return [cls(p) for p in dict.fromkeys((0.0, *fractions))]

    def _room(self, prompt: Prompt) -> int:
        """The most positions that any choice of a fraction p of the chunks takes."""
        lengths = np.sort(prompt.lengths)[::-1]
        expanded = np.arange(len(lengths)) < round(self.fraction * len(lengths))
        return min(int(np.where(expanded, lengths, 1).sum()), prompt.limit)


class LastTokens(_AsManyPositions):
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
        in_context = prompt.in_context
        from_the_end = np.cumsum(in_context[::-1])[::-1]
        return prompt.as_text(in_context & (from_the_end <= self._room(prompt)))


class FewerPassages(_AsManyPositions):
    """The most similar passages."""

    kind = "fewer"
    reads = (
        "fewer passages as text, those most similar to the question, as many tokens as the context "
        "takes positions with p expanded; the last one is cut"
    )
    curve = "fewer passages"

    def row(self, prompt: Prompt) -> Row:
        """The most similar passages."""
        return prompt.as_text(prompt.most_similar(self._room(prompt)))


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
        _check_fraction(self.fraction)

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
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """One row per selection and p."""
        return [cls(name, p) for p in fractions for name in dict.fromkeys(selections)]


class Keep(_Selected):
    """Chosen chunks expand, the rest is compressed: what the generator does."""

    kind = "keep"
    reads = "the chunks that a policy expands as text, one chunk embedding for every other chunk"
    on_running_text = True
    compresses = True

    @property
    def name(self) -> str:
        """The selection and p."""
        return f"{self.selection}-{self.fraction:g}"

    def row(self, prompt: Prompt) -> Row:
        """Chosen chunks as tokens, chunk embeddings for the rest."""
        expanded, cut = prompt.expanded(self.selection, self.fraction)
        return prompt.compressed(expanded, cut=cut)


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
        expanded, cut = prompt.expanded(self.selection, self.fraction)
        return prompt.as_text(prompt.in_context & expanded[prompt.chunk_of], cut=cut)


class SameText(_Selected):
    """The selection fills the positions of its compressed context with text only."""

    kind = "text"
    reads = (
        "the chunks that the policy ranks first as text, as many tokens as the context takes "
        "positions with p expanded and the rest compressed; the last one is cut"
    )

    @property
    def label(self) -> str:
        """The selection, and the p with as many positions."""
        return f"{self.curve}, as p={self.fraction:g}"

    @property
    def curve(self) -> str:
        """The selection, and that it is read as text."""
        return f"{self.selection} as text"

    @classmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """One row per selection and p, including p = 0."""
        return super().each(selections, tuple(dict.fromkeys((0.0, *fractions))))

    def row(self, prompt: Prompt) -> Row:
        """The best chunks as tokens, as many as there are positions."""
        expanded, cut = prompt.expanded(self.selection, self.fraction)
        room = prompt.positions(expanded)
        selected = prompt.best_chunks(prompt.scores[self.selection], room)
        return prompt.as_text(selected, cut=cut)


#: All kinds of rows, in the order of tables.
METHODS: tuple[type[Method], ...] = (
    NoContext,
    AllText,
    AnsweringPassages,
    AllCompressed,
    LastTokens,
    FewerPassages,
    Keep,
    Drop,
    SameText,
)

NONE, FULL, GOLD, COMPRESSED = NoContext(), AllText(), AnsweringPassages(), AllCompressed()


def describe(method: Method) -> dict[str, Any]:
    """A row's name and its labels in tables and plots, for JSON."""
    return {
        "method": method.name,
        "kind": method.kind,
        "selection": method.selection,
        "fraction": method.fraction,
        "label": method.label,
        "curve": method.curve,
        "compresses": method.compresses,
    }


def default_methods(
    selections: Sequence[str] = SELECTIONS,
    fractions: Sequence[float] = FRACTIONS,
    *,
    kinds: Sequence[str] = (),
    running_text: bool = False,
) -> list[Method]:
    """All rows of the given kinds, for every selection and every p.

    Args:
        selections: Names of selections.
        fractions: Expanded fractions p, above 0.
        kinds: Kinds of rows, from ``METHODS``; all by default.
        running_text: Only kinds that can be measured on running text.

    Raises:
        EvaluationError: If there is no such kind, or a fraction is outside its range.
        UnknownPolicyError: If there is no such selection.
    """
    known = [method.kind for method in METHODS]
    if unknown := [kind for kind in kinds if kind not in known]:
        raise EvaluationError(f"unknown method {unknown[0]!r}; choose from {', '.join(known)}")
    chosen = [
        method
        for method in METHODS
        if (not kinds or method.kind in kinds) and (method.on_running_text or not running_text)
    ]
    return [row for method in chosen for row in method.each(selections, fractions)]


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise EvaluationError(f"the expanded fraction must be from 0 to 1, got {fraction!r}")
