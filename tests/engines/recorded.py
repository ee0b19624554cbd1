"""An engine that records its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refrag_components.engines.base import Engine, EngineDelta, EngineOutput
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams


class Recorded:
    """Passes calls on to another engine.

    Attributes:
        batches: Number of layouts of each call.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batches: list[int] = []

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        self.batches.append(len(layouts))
        return self._engine.generate(layouts, params)

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        self.batches.append(1)
        return self._engine.stream(layout, params)
