"""An engine that answers with what it was given to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from refrag_components.engines.base import EngineDelta, EngineOutput
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.sampling import SamplingParams
from refrag_components.modeling import RefragModel
from refrag_components.text.tokenization import content_tokenizer

__all__ = ["ShowsLayout"]


class ShowsLayout:
    """The answer is the layout: text, <compressed chunks> and <+expanded chunks+>."""

    def __init__(self, model: RefragModel) -> None:
        self._tokenizer = content_tokenizer(model.tokenizer)

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        return [EngineOutput(self.read(each), (0,), "stop", 0.0, 1) for each in layouts]

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        yield EngineDelta(self.read(layout), (0,), "stop")

    def read(self, layout: Layout) -> str:
        shown = []
        for segment in layout.segments:
            if isinstance(segment, TextSegment):
                shown.append(self._text(segment.token_ids.tolist()))
                continue
            ends = np.cumsum(segment.vectors.chunk_lengths)[:-1]
            chunks = np.split(segment.vectors.token_ids, ends)
            for ids, expanded in zip(chunks, segment.expanded, strict=True):
                text = self._text(ids.tolist())
                shown.append(f"<+{text}+>" if expanded else f"<{text}>")
        return "".join(shown)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
