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
    ends = np.cumsum([passage.n_chunks for passage in passages])
    parts = np.split(scores, ends[:-1], axis=-1)
    steps = [per_token * passage.chunk_size for passage in passages]
    return np.concatenate(list(map(_within, parts, steps)), axis=-1)


def _within(scores: np.ndarray, step: float) -> np.ndarray:
    """The same for one passage, with the cost per chunk of distance."""
    cost = step * np.arange(scores.shape[-1])
    before = np.maximum.accumulate(scores + cost, axis=-1) - cost
    after = np.maximum.accumulate((scores - cost)[..., ::-1], axis=-1)[..., ::-1] + cost
    nearest: np.ndarray = np.maximum(before, after)
    return nearest
