"""Batches of running text by step number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from refrag_components.corpus import Batch, ClozeForm, TokenisedCorpus, WindowSpec, cut_windows
from refrag_components.corpus.rows import run_tokens
from refrag_components.exceptions import TrainingError
from refrag_components.training.settings import Settings, Share, Steps

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["Frame", "Mix", "Shape", "TextSettings", "TextSource", "shares_of_rungs"]

_USUAL_CONTEXT = 1024  # tokens; numbers of windows are given for contexts of this length


class Shape(Settings):
    """Shape of a context.

    Attributes:
        passages: Passages that it consists of.
        tokens: Tokens per passage.
        share: Share of the steps with this shape, relative to the others.
    """

    passages: Steps
    tokens: Steps
    share: float = Field(default=1.0, gt=0)


class TextSettings(Settings):
    """How running text is cut.

    Attributes:
        shapes: Shapes of the context, one drawn per step.
        output_tokens: Tokens after the context (o).
        recalled: Spans to recall from anywhere in the context, per window.
        shuffled: Fraction of the windows whose passages are in random order.
        short_chunks: Share of the steps whose passages end with a short chunk.
    """

    shapes: tuple[Shape, ...] = Field(min_length=1)
    output_tokens: Steps = 160
    recalled: int = Field(default=4, ge=0)
    shuffled: Share = 0.5
    short_chunks: Share = 0.25


class Mix(Settings):
    """Windows of one kind, which are one batch.

    Attributes:
        windows: Windows per batch with a context of 1,024 tokens; more if windows are shorter and
            fewer if they are longer: a batch has about the same number of tokens. At least one.
        expanded: Fractions p of the context that enter as tokens; one drawn per step.
        weight: In the loss of the step (continual), or how often this kind is drawn (questions).
    """

    windows: Steps
    expanded: tuple[Share, ...] = Field(default=(0.0,), min_length=1)
    weight: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class Frame:
    """What batches need to know of the model, so that worker processes need no model.

    Attributes:
        chunk_size: Tokens per chunk (k).
        rungs: All rungs of the checkpoint.
        rung_shares: Share of the rows on each rung.
        separator: Token that stands between documents.
        form: What questions about running text are made with.
    """

    chunk_size: int
    rungs: tuple[int, ...]
    rung_shares: tuple[float, ...]
    separator: int
    form: ClozeForm

    @classmethod
    def of(cls, model: RefragModel, rung_shares: Sequence[float]) -> Frame:
        """Reads it from a model.

        Raises:
            TrainingError: If the number of shares is not the number of rungs.
        """
        rungs = model.config.rungs
        shares = shares_of_rungs(rungs, rung_shares)
        form = ClozeForm.of(model.tokenizer)
        return cls(model.config.chunk_size, rungs, shares, model.first_token_id, form)

    def draw(self, rows: int, rng: np.random.Generator) -> list[int]:
        """Draws the rung of each row."""
        drawn: list[int] = rng.choice(self.rungs, size=rows, p=self.rung_shares).tolist()
        return drawn


def shares_of_rungs(rungs: Sequence[int], shares: Sequence[float]) -> tuple[float, ...]:
    """The share of each rung, all together 1.

    Raises:
        TrainingError: If the number of shares is not the number of rungs.
    """
    whole = sum(shares)
    if len(shares) != len(rungs) or whole <= 0:
        msg = f"rung_shares must be one share for each of the rungs {rungs}, got {shares}"
        raise TrainingError(msg)
    return tuple(share / whole for share in shares)


@dataclass(frozen=True, eq=False)
class TextSource:
    """Cuts batches out of running text.

    Attributes:
        corpus: Tokenised text.
        settings: How it is cut.
        frame: Of the model.

    Raises:
        TrainingError: If a window is longer than the text.
    """

    corpus: TokenisedCorpus
    settings: TextSettings
    frame: Frame

    def __post_init__(self) -> None:
        """Checks that the windows fit."""
        longest = max(shape.passages * shape.tokens for shape in self.settings.shapes)
        needed = longest + self.settings.output_tokens
        if len(self.corpus) <= needed:
            msg = f"the text has {len(self.corpus)} tokens, a window needs {needed + 1}"
            raise TrainingError(msg)

    def draw_shape(self, rng: np.random.Generator) -> Shape:
        """Draws the shape of a step's contexts."""
        shapes = self.settings.shapes
        shares = np.array([shape.share for shape in shapes])
        shape = shapes[int(rng.choice(len(shapes), p=shares / shares.sum()))]
        return self.maybe_ragged(shape, rng)

    def maybe_ragged(self, shape: Shape, rng: np.random.Generator) -> Shape:
        """The shape, or in some of the steps one whose passages end with a short chunk."""
        ragged = rng.random() < self.settings.short_chunks
        less = int(rng.integers(1, self.frame.rungs[-1])) if self.frame.rungs[-1] > 1 else 0
        if not ragged or less >= shape.tokens:
            return shape
        return shape.model_copy(update={"tokens": shape.tokens - less})

    def batch(
        self, shape: Shape, mix: Mix, p: float, rng: np.random.Generator, weight: float
    ) -> Batch:
        """Cuts a batch that continues and recalls its contexts.

        Args:
            shape: Of the contexts.
            mix: Kind of the windows.
            p: Fraction of the context that enters as tokens.
            rng: Draws windows, orders, runs and spans.
            weight: Of the batch in the loss of its step.
        """
        settings = self.settings
        spec = WindowSpec(
            passages=shape.passages,
            passage_tokens=shape.tokens,
            output_tokens=settings.output_tokens,
            expanded=p,
            run=run_tokens(self.frame.rungs),
            recalled=settings.recalled,
            shuffled=settings.shuffled,
            taught=True,
        )
        return self._cut(
            spec, mix, rng, weight, "text" if p == 1 else "runs" if p else "compressed"
        )

    def cloze(
        self,
        shape: Shape,
        mix: Mix,
        p: float,
        rng: np.random.Generator,
        weight: float,
        tokens: int,
        taught: bool = False,
    ) -> Batch:
        """Cuts a batch that asks for words of its contexts, many of each.

        Args:
            shape: As for ``batch``; likewise the others.
            mix: Kind of the windows.
            p: Fraction of the context that enters as tokens.
            rng: Draws windows, orders, runs and questions.
            weight: Of the batch in the loss of its step.
            tokens: Of the questions and answers about one context, at most.
            taught: Whether a reader of the full text says how likely each token of an answer is.
        """
        spec = WindowSpec(
            passages=shape.passages,
            passage_tokens=shape.tokens,
            output_tokens=0,
            expanded=p,
            run=run_tokens(self.frame.rungs),
            cloze_tokens=tokens,
            shuffled=self.settings.shuffled,
            taught=taught,
        )
        return self._cut(spec, mix, rng, weight, "cloze")

    def _cut(
        self, spec: WindowSpec, mix: Mix, rng: np.random.Generator, weight: float, name: str
    ) -> Batch:
        usual = _USUAL_CONTEXT + spec.tail_tokens
        count = max(1, round(mix.windows * usual / (spec.context_tokens + spec.tail_tokens)))
        return cut_windows(
            self.corpus,
            rng.integers(0, len(self.corpus) - spec.span, size=count),
            spec,
            chunk_size=self.frame.chunk_size,
            rungs=self.frame.rungs,
            row_rungs=self.frame.draw(count, rng),
            separator=self.frame.separator,
            rng=rng,
            form=self.frame.form,
            weight=weight,
            name=name,
        )
