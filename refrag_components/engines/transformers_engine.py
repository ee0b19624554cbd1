"""The default engine: any Hugging Face decoder, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.engines.json_schema import JsonGrammars
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.row import Row
from refrag_components.engines.sampling import Sampler, SamplingParams
from refrag_components.engines.shared_engine import SharedEngine
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.engines.worker import Worker
from refrag_components.modeling.transfer import joined_on_device

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["TransformersEngine"]


class TransformersEngine(SharedEngine[Row]):
    """Decodes layouts with the model's decoder.

    Calls from all threads and tasks are decoded together, whenever they come: an answer joins the
    running batch between two steps and leaves it with its last token, or as soon as its caller is
    interrupted or cancelled, or closes its stream. Calls take turns.

    Args:
        model: Provides the decoder, the tokenizer and the embeddings.
        batch_size: Maximum number of layouts to decode together; bounds memory.
    """

    def __init__(self, model: RefragModel, *, batch_size: int = 32) -> None:
        super().__init__(model)
        caches = StaticCaches.for_model(model)
        self._worker = Worker(model, max_rows=batch_size, caches=caches)
        self._grammars = JsonGrammars(self._tokenizer, self._end_ids)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until nothing is decoded: who withdraws an answer does not wait for its last step.

        Args:
            seconds: For at most so long; None without limit.

        Returns:
            Whether nothing is decoded.
        """
        return self._worker.wait(seconds)

    def _begin(self, layout: Layout, params: SamplingParams, **common: Any) -> Row:
        device = self._model.device
        ids = torch.zeros(0, dtype=torch.int64, device=device)
        if params.repetition_penalty != 1:
            ids = joined_on_device([_visible_ids(layout)], device)
        schema = params.answer_schema
        constraint = None if schema is None else self._grammars.processor(schema)
        sampler = Sampler(params, ids, constraint)
        return Row(layout, sampler=sampler, alone=params.reproducible, **common)

    def _submit(self, answers: Sequence[Row]) -> None:
        self._worker.submit(answers)


def _visible_ids(layout: Layout) -> np.ndarray:
    """Token ids of the positions that are tokens, in order, shape (n,), int64."""
    ids = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            ids.append(np.asarray(segment.token_ids, np.int64))
        else:
            by_token = np.repeat(segment.expanded, segment.vectors.chunk_lengths)
            ids.append(np.asarray(segment.vectors.token_ids, np.int64)[by_token])
    return np.concatenate(ids)
