"""The rows of a comparison: what the decoder reads of a context.

``METHODS`` lists the kinds of rows. The command line, the tables, the figures and the
documentation take names and descriptions from there.
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

#: Expanded fractions p that selections are compared at.
FRACTIONS = (0.05, 0.1, 0.25, 0.5)


class Method(ABC):
    """One row of a comparison: what becomes of a context before the decoder reads it.

    Attributes:
        kind: Name of this kind of rows.
        reads: What the decoder reads, in words.
        on_running_text: Whether text without passages can be measured so.
        compresses: Whether chunk embeddings are read.
        fraction: Fraction p of the chunks that expand, or that sets the number of positions; None
            where there is nothing to choose.
        selection: What chooses chunks; None where nothing is chosen.
    """

    kind: ClassVar[str]
    reads: ClassVar[str]
    on_running_text: ClassVar[bool] = False
    compresses: ClassVar[bool] = False
    fraction: float | None
    selection: str | None

    @property
    def name(self) -> str:
        """Tells this row from all others; a file may be named so."""
        return self.kind

    @property
    @abstractmethod
    def label(self) -> str:
        """The name as a reader of tables knows it."""

    @property
    def curve(self) -> str | None:
        """What all rows that differ in p alone are called together; None without a p."""
        return None

    @abstractmethod
    def row(self, prompt: Prompt) -> Row:
        """Makes what the decoder reads of a prompt."""

    @classmethod
    @abstractmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """All rows of this kind for some selections and fractions p above 0."""


@dataclass(frozen=True)
class _Fixed(Method):
    """A row that leaves nothing to choose."""

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
        "all passages as text; where they do not fit the window, the most similar to the question "
        "that do"
    )
    label = "full context"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """All of the text, or what fits the window."""
        cut = prompt.context_tokens > prompt.limit
        return prompt.as_text(prompt.most_similar(prompt.limit), cut=cut)


class AnsweringPassages(_Fixed):
    """What a perfect ranking of the same passages would leave."""

    kind = "gold"
    reads = (
        "those of the passages that answer the question, or that it was asked about, as text, and "
        "nothing else"
    )
    label = "answering passages alone"

    def row(self, prompt: Prompt) -> Row:
        """The text of the answering passages; none of them is no context."""
        kept = prompt.in_context & np.r_[prompt.answering, False][prompt.passage_of]
        cut = bool(kept.sum() > prompt.limit)
        kept &= np.cumsum(kept) <= prompt.limit
        return prompt.as_text(kept, cut=cut)


class AllCompressed(_Fixed):
    """Nothing but chunk embeddings."""

    kind = "compressed"
    reads = "a chunk embedding for every chunk: p=0"
    label = "p=0"
    on_running_text = True
    compresses = True

    def row(self, prompt: Prompt) -> Row:
        """The prompt with every chunk compressed."""
        return prompt.compressed(np.zeros(len(prompt.lengths), dtype=bool))


@dataclass(frozen=True)
class _AsManyPositions(Method):
    """Plain text in as many positions as a context takes of which a fraction p expands.

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
        """What is read, and as which p."""
        return f"{self.curve}, as p={self.fraction:g}"

    @classmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """One row for every p, that of nothing expanded among them."""
        return [cls(p) for p in dict.fromkeys((0.0, *fractions))]

    def _room(self, prompt: Prompt) -> int:
        """The most positions that any choice of a fraction p of the chunks takes."""
        lengths = np.sort(prompt.lengths)[::-1]
        expanded = np.arange(len(lengths)) < round(self.fraction * len(lengths))
        return min(int(np.where(expanded, lengths, 1).sum()), prompt.limit)


class LastTokens(_AsManyPositions):
    """The end of the context."""

    kind = "last"
    reads = "the last tokens of the context as text, as many as a context with p expanded takes"
    curve = "last tokens"
    on_running_text = True

    def row(self, prompt: Prompt) -> Row:
        """The last tokens; passages before them disappear."""
        kept = prompt.in_context
        from_the_end = np.cumsum(kept[::-1])[::-1]
        return prompt.as_text(kept & (from_the_end <= self._room(prompt)))


class FewerPassages(_AsManyPositions):
    """The most similar passages."""

    kind = "fewer"
    reads = (
        "fewer passages as text, the most similar to the question first, as many tokens as a "
        "context with p expanded takes; the last one is cut"
    )
    curve = "fewer passages"

    def row(self, prompt: Prompt) -> Row:
        """The most similar passages."""
        return prompt.as_text(prompt.most_similar(self._room(prompt)))


@dataclass(frozen=True)
class _Selected(Method):
    """A row whose chunks a selection chooses.

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
        """One row for every selection and every p."""
        return [cls(name, p) for p in fractions for name in dict.fromkeys(selections)]


class Keep(_Selected):
    """Chosen chunks expand, the rest is compressed: what the generator does."""

    kind = "keep"
    reads = "the chunks that a policy expands as text, a chunk embedding for every other"
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
    reads = "the very chunks that the policy expands, every other one deleted"

    @property
    def curve(self) -> str:
        """The selection, and that nothing else is left."""
        return f"{self.selection}, rest dropped"

    def row(self, prompt: Prompt) -> Row:
        """Chosen chunks as tokens, and nothing else of the context."""
        expanded, cut = prompt.expanded(self.selection, self.fraction)
        return prompt.as_text(prompt.in_context & expanded[prompt.chunk_of], cut=cut)


class SameText(_Selected):
    """The selection fills the positions of its compressed context with text alone."""

    kind = "text"
    reads = (
        "the chunks that the policy ranks first, as text alone, in as many positions as the "
        "context takes with p expanded and the rest compressed; the last one is cut"
    )

    @property
    def label(self) -> str:
        """The selection, and as which p."""
        return f"{self.curve}, as p={self.fraction:g}"

    @property
    def curve(self) -> str:
        """The selection, and that it is text."""
        return f"{self.selection} as text"

    @classmethod
    def each(cls, selections: Sequence[str], fractions: Sequence[float]) -> list[Self]:
        """One row for every selection and every p, that of nothing expanded among them."""
        return super().each(selections, tuple(dict.fromkeys((0.0, *fractions))))

    def row(self, prompt: Prompt) -> Row:
        """The best chunks as tokens, as many as there are positions."""
        expanded, cut = prompt.expanded(self.selection, self.fraction)
        room = prompt.positions(expanded)
        kept = prompt.best_chunks(prompt.scores[self.selection], room)
        return prompt.as_text(kept, cut=cut)


#: Every kind of rows, in the order of tables.
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
    """A row's name and what tables and figures call it, as JSON has it."""
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
    """All rows of some kinds, for every selection at every p.

    Args:
        selections: Names of selections.
        fractions: Expanded fractions p, above 0.
        kinds: Kinds of rows, of ``METHODS``; all by default.
        running_text: Only those that text without passages can be measured by.

    Raises:
        EvaluationError: If there is no such kind, or a fraction is outside its range.
        UnknownPolicyError: If there is no such selection.
    """
    known = [method.kind for method in METHODS]
    if unknown := [kind for kind in kinds if kind not in known]:
        raise EvaluationError(f"unknown method {unknown[0]!r}; choose among {', '.join(known)}")
    chosen = [
        method
        for method in METHODS
        if (not kinds or method.kind in kinds) and (method.on_running_text or not running_text)
    ]
    return [row for method in chosen for row in method.each(selections, fractions)]


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise EvaluationError(f"the expanded fraction must lie in 0..1, got {fraction!r}")
