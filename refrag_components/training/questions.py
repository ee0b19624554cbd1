"""The second stage, questions over passages, and the plain twin, which reads them as text alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from pydantic import Field
from torch.utils.data import Dataset

from refrag_components.corpus import Batch, Kind, QuestionSet, Row, build_batch, lay_out
from refrag_components.training.settings import Share, StageSettings, Steps
from refrag_components.training.text_batches import Frame, Mix, TextSettings, TextSource

__all__ = ["QuestionBatches", "QuestionSettings", "TwinSettings"]

_CHOICE = 3  # times as many rows are drawn as one step takes
_ENCODING = 0.3  # of a decoder position is what a token costs the encoder, about
_AS_TEXT: Mapping[Kind, float] = MappingProxyType({"text": 1.0})
_ALL_TEXT = 1.0  # fraction p


class TwinSettings(StageSettings):
    """The ``[twin]`` table of a recipe.

    Attributes:
        positions: Decoder positions of the conversations per step, about, padding included.
        passages: Numbers of passages per turn, one drawn per conversation.
        max_tokens: Most passage tokens of a conversation.
        asked: Numbers of questions about the passages of a conversation, one drawn each, as far as
            there are so many: passages that are encoded once teach several answers.
        many_share: Share of the steps with many passages.
        many_passages: Numbers of passages then.
        many_tokens: Most passage tokens then.
        many_text_tokens: The same if everything is text.
        held_out: Names of sets that are not trained on.
        text: How running text is cut.
        mix: Kinds of running text, one drawn per step by their weights.
        text_weight: Weight of running text, compared with the conversations, whose weight is 1.
        cloze: Questions made of running text, in addition to both, with their own weight; None for
            none. They are new at every step, whereas a set of questions is learnt by heart after a
            few passes.
        cloze_tokens: Tokens of such questions and their answers about one context, at most.
        taught: Whether the answers are also taught by a decoder that reads only the passages that
            answer, as text (of running text everything). It is the one that the run is given as
            its teacher or, for the questions stage, the plain twin, which has to be trained
            before, and also takes the base decoder's place as the reader of running text.
    """

    positions: Steps = 40_000
    passages: tuple[Steps, ...] = (1, 2, 3, 4, 5, 5, 6, 8)
    max_tokens: Steps = 1536
    asked: tuple[Steps, ...] = Field(default=(1,), min_length=1)
    many_share: Share = 0.2
    many_passages: tuple[Steps, ...] = (10, 15, 20, 40)
    many_tokens: Steps = 6000
    many_text_tokens: Steps = 3000
    held_out: tuple[str, ...] = ()
    text: TextSettings
    mix: tuple[Mix, ...] = Field(min_length=1)
    text_weight: float = Field(default=0.3, ge=0)
    cloze: Mix | None = None
    cloze_tokens: Steps = 512
    taught: bool = False

    @property
    def kinds(self) -> Mapping[Kind, float]:
        """What expands in the conversations of a step, by share of the steps."""
        return _AS_TEXT


class QuestionSettings(TwinSettings):
    """The ``[questions]`` table of a recipe.

    Attributes:
        kind_shares: What expands of the passages, by share of the steps; see ``lay_out``.
        expanded: Shares of the tokens that expand, where a kind has such a share; one drawn per
            conversation, half of it if the passages are many.
        rung_shares: Share of the conversations on each of the model's rungs.
    """

    kind_shares: dict[Kind, float] = Field(min_length=1)
    expanded: tuple[Share, ...] = (0.05, 0.1, 0.25)
    rung_shares: tuple[float, ...] = (1.0,)

    @property
    def kinds(self) -> Mapping[Kind, float]:
        """What expands in the conversations of a step, by share of the steps."""
        return self.kind_shares


@dataclass(frozen=True, eq=False)
class QuestionBatches(Dataset[tuple[Batch, ...]]):
    """The batches of each step: conversations, running text and questions about it.

    They are the same at every start, so that a run can resume.

    Attributes:
        settings: Of the stage; those of the twin show everything as text.
        questions: What is asked.
        source: Of running text.
        seed: Of everything that is drawn.
        replicas: Processes that train together and take turns through the items.
    """

    settings: TwinSettings
    questions: QuestionSet
    source: TextSource
    seed: int
    replicas: int = 1

    @property
    def frame(self) -> Frame:
        """Of the model."""
        return self.source.frame

    def __len__(self) -> int:
        """Number of items: one per step and process."""
        return self.settings.steps * self.replicas

    def __getitem__(self, index: int) -> tuple[Batch, ...]:
        """Makes one process's batches of one step."""
        settings = self.settings
        together = np.random.default_rng([self.seed, 1, index // self.replicas])
        names = list(settings.kinds)
        shares = np.array([settings.kinds[name] for name in names])
        kind = names[int(together.choice(len(names), p=shares / shares.sum()))]
        many = bool(together.random() < settings.many_share)
        shape = self.source.draw_shape(together)
        weights = np.array([mix.weight for mix in settings.mix])
        mix = settings.mix[int(together.choice(len(weights), p=weights / weights.sum()))]
        p = float(together.choice(mix.expanded))
        rng = np.random.default_rng([self.seed, 2, index])
        asked = build_batch(
            self._rows(kind, many, rng),
            chunk_size=self.frame.chunk_size,
            rungs=self.frame.rungs,
            name=f"asked {kind}",
        )
        step = [asked]
        if settings.text_weight:
            step.append(self.source.batch(shape, mix, p, rng, settings.text_weight))
        if settings.cloze is not None:
            cloze = settings.cloze
            p = float(together.choice(cloze.expanded))
            gaps = self.source.cloze(
                shape, cloze, p, rng, cloze.weight, settings.cloze_tokens, settings.taught
            )
            step.append(gaps)
        return tuple(step)

    def _rows(self, kind: Kind, many: bool, rng: np.random.Generator) -> list[Row]:
        """Rows of similar length, so that little is padded, that fill the positions of a step."""
        drawn: list[Row] = []
        sizes: list[float] = []
        while sum(sizes) < _CHOICE * self.settings.positions:
            row = self._row(kind, many, rng)
            drawn.append(row)
            sizes.append(row.positions + _ENCODING * row.encoded_tokens)
        order = np.argsort(sizes, kind="stable")
        # As many rows as fit next to the longest of them.
        counts = np.maximum(self.settings.positions // np.asarray(sizes)[order], 1).astype(int)
        longest = int(rng.choice(np.flatnonzero(np.arange(1, len(order) + 1) >= counts)))
        return [drawn[i] for i in order[longest + 1 - counts[longest] : longest + 1]]

    def _row(self, kind: Kind, many: bool, rng: np.random.Generator) -> Row:
        settings = self.settings
        room = settings.max_tokens
        if many:
            room = settings.many_text_tokens if kind == "text" else settings.many_tokens
        count = int(rng.choice(settings.many_passages if many else settings.passages))
        share = 0.0
        if isinstance(settings, QuestionSettings):
            share = float(rng.choice(settings.expanded)) / (2 if many else 1)
        most = int(rng.choice(settings.asked))
        return lay_out(
            self.questions.draw(count, room, rng, most=most),
            self.questions,
            kind=kind,
            share=share,
            rung=self.frame.draw(1, rng)[0],
            rungs=self.frame.rungs,
            rng=rng,
            form=self.frame.form,
            taught=settings.taught,
        )
