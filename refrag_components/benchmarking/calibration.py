"""Measures how long this machine takes to the first token, for a time as the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.generation.cost_model import CostModel
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.engines.base import Engine
    from refrag_components.modeling import RefragModel

__all__ = ["calibrate"]

_SHORTEST = 64  # positions
_TEXT = 32  # of them, outside passages
_CHUNKS = 32  # per passage
_WARM_UP = 2  # when a prompt's length comes again, a GPU records its kernels
_PATIENCE = 5.0  # seconds for one layout; who waits so long wants no time limit
_SHARE = 0.8  # of the measurements are no slower than the time that counts


def calibrate(
    model: RefragModel,
    *,
    engine: Engine | None = None,
    repeats: int = 5,
    progress: Callable[[str], None] = lambda line: None,
) -> CostModel:
    """Measures layouts of chunk embeddings, each half as long again as the last one.

    Text takes no longer: chunk embeddings have to be projected as well.

    Args:
        model: The model.
        engine: Decodes; transformers by default.
        repeats: Measurements of each length; four in five are no slower than what counts.
        progress: Called with a line for each length.

    Raises:
        ValueError: If repeats is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    engine = TransformersEngine(model) if engine is None else engine
    params = SamplingParams(max_tokens=1)
    lengths: list[int] = []
    seconds: list[float] = []
    for length in _lengths(model.window - 1):
        layout = _layout(model, length)
        took = [
            engine.generate([layout], params)[0].time_to_first_token
            for _ in range(_WARM_UP + repeats)
        ]
        lengths.append(length)
        seconds.append(float(np.quantile(took[_WARM_UP:], _SHARE)))
        progress(f"{length} positions: {1000 * seconds[-1]:.1f} ms to the first token")
        if seconds[-1] > _PATIENCE:
            break
    return CostModel(tuple(lengths), tuple(seconds))


def _lengths(longest: int) -> Iterator[int]:
    length = min(_SHORTEST, longest)
    while length < longest:
        yield length
        length += max(length // 2, 1)
    yield longest


def _layout(model: RefragModel, length: int) -> Layout:
    """A layout of a given number of positions: some tokens, then chunk embeddings."""
    draw = np.random.default_rng(length)
    size = model.config.chunk_size
    text = min(_TEXT, length)
    first = TextSegment(np.full(text, model.first_token_id))
    passages = []
    for start in range(0, length - text, _CHUNKS):
        count = min(_CHUNKS, length - text - start)
        vectors = draw.standard_normal((count, model.vector_width)).astype(np.float32)
        ids = np.full(count * size, model.first_token_id)
        chunks = ChunkVectors(vectors, ids, size, model.fingerprint)
        passages.append(PassageSegment(chunks, np.zeros(count, dtype=bool)))
    return Layout((first, *passages))
