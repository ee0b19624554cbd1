"""What a chunk is worth for being near another one of its passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from refrag_components.vectors import ChunkVectors

__all__ = ["nearby"]


def nearby(scores: np.ndarray, passages: Sequence[ChunkVectors], per_token: float) -> np.ndarray:
    """Gives every chunk the best score around it, less the cost of the distance to it.

    Chunks then expand from the best ones outwards, and are mostly contiguous.

    Args:
        scores: Of all chunks of all passages in order, shape (..., chunks).
        passages: The passages.
        per_token: Cost per token of distance, 0 or more.

    Returns:
        max_j (scores_j - per_token k |i - j|) over the passage of every chunk i, same shape.
    """
    counts = np.array([passage.n_chunks for passage in passages])
    steps = np.array([per_token * passage.chunk_size for passage in passages])
    place = np.arange(counts.max(initial=0))
    used = np.flatnonzero(place < counts[:, None])
    # A row per passage; what is behind its end is never the best.
    padded = np.full((*scores.shape[:-1], len(counts) * len(place)), -np.inf)
    padded[..., used] = scores
    rows = padded.reshape(*scores.shape[:-1], len(counts), len(place))
    cost = steps[:, None] * place
    before = np.maximum.accumulate(rows + cost, axis=-1) - cost
    after = np.maximum.accumulate((rows - cost)[..., ::-1], axis=-1)[..., ::-1] + cost
    nearest = np.maximum(before, after).reshape(padded.shape)
    return nearest.take(used, axis=-1)
