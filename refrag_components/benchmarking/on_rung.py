"""An engine whose chunk embeddings stand for a given number of tokens."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from refrag_components.engines.base import Engine, EngineDelta, EngineOutput
from refrag_components.engines.layout import Layout, PassageSegment
from refrag_components.engines.sampling import SamplingParams

__all__ = ["OnRung"]


class OnRung:
    """Puts every passage that is not dropped on one rung.

    A benchmark compares rungs; to a user's fraction belongs the finest one.

    Args:
        engine: Decodes.
        rung: Tokens per chunk embedding, one of the checkpoint's rungs.
    """

    def __init__(self, engine: Engine, rung: int) -> None:
        self._engine = engine
        self._rung = rung

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        """As the engine's."""
        return self._engine.generate([self.layout(layout) for layout in layouts], params)

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        """As the engine's."""
        return self._engine.stream(self.layout(layout), params)

    def layout(self, layout: Layout) -> Layout:
        """The layout with its compressed passages on the rung."""
        if all(passage.rung in (0, self._rung) for passage in layout.passages):
            return layout  # to make it again would be part of what is measured
        return Layout(
            tuple(
                replace(segment, rung=self._rung)
                if isinstance(segment, PassageSegment) and segment.rung
                else segment
                for segment in layout.segments
            )
        )
