"""The first stage: decoder, encoder and projector learn to go on after a compressed context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field
from torch.utils.data import Dataset

from refrag_components.corpus import Batch
from refrag_components.training.settings import Settings, StageSettings, Steps
from refrag_components.training.text_batches import Mix, Shape, TextSettings, TextSource

__all__ = ["ContinualBatches", "ContinualSettings", "Lesson"]


class Lesson(Settings):
    """Steps with contexts of one shape.

    Attributes:
        steps: How many.
        passages: Passages of the context.
        tokens: Tokens per passage.
    """

    steps: Steps
    passages: Steps = 1
    tokens: Steps


class ContinualSettings(StageSettings):
    """The ``[continual]`` table of a recipe.

    Attributes:
        text: How running text is cut.
        short: Short contexts that come first, with which recall is learnt far faster.
        mix: The batches of each step, whose weighted losses are added up.
        rung_shares: Share of the windows on each of the model's rungs.
    """

    text: TextSettings
    short: tuple[Lesson, ...] = ()
    mix: tuple[Mix, ...] = Field(min_length=1)
    rung_shares: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, eq=False)
class ContinualBatches(Dataset[tuple[Batch, ...]]):
    """The batches of each step; the same at every start, so that a run can resume.

    Attributes:
        settings: Of the stage.
        source: Of running text.
        seed: Of everything that is drawn.
        replicas: Processes that train together. They take turns through the items, and the items
            of one step have the same shapes, so that none waits for another.
    """

    settings: ContinualSettings
    source: TextSource
    seed: int
    replicas: int = 1

    def __len__(self) -> int:
        """Number of items: one per step and process."""
        return self.settings.steps * self.replicas

    def __getitem__(self, index: int) -> tuple[Batch, ...]:
        """Makes one process's batches of one step."""
        step = index // self.replicas
        together = np.random.default_rng([self.seed, 1, step])
        shape = self._shape(step, together)
        fractions = [float(together.choice(mix.expanded)) for mix in self.settings.mix]
        rng = np.random.default_rng([self.seed, 2, index])
        whole = sum(mix.weight for mix in self.settings.mix)
        return tuple(
            self.source.batch(shape, mix, p, rng, mix.weight / whole)
            for mix, p in zip(self.settings.mix, fractions, strict=True)
        )

    def _shape(self, step: int, rng: np.random.Generator) -> Shape:
        for lesson in self.settings.short:
            if step < lesson.steps:
                shape = Shape(passages=lesson.passages, tokens=lesson.tokens)
                return self.source.maybe_ragged(shape, rng)
            step -= lesson.steps
        return self.source.draw_shape(rng)
