"""What a chunk is worth for standing near another one."""

from __future__ import annotations

import numpy as np

__all__ = ["nearby"]


def nearby(scores: np.ndarray, step: float) -> np.ndarray:
    """Lets every chunk have the best score around it, less what the way there costs.

    Chunks then expand from the best ones outwards, and mostly in one piece.

    Args:
        scores: Of a passage's chunks, shape (..., chunks).
        step: What a chunk of distance costs, 0 or more.

    Returns:
        max_j (scores_j - step |i - j|) at every chunk i, same shape.
    """
    way = step * np.arange(scores.shape[-1])
    before = np.maximum.accumulate(scores + way, axis=-1) - way
    after = np.maximum.accumulate((scores - way)[..., ::-1], axis=-1)[..., ::-1] + way
    nearest: np.ndarray = np.maximum(before, after)
    return nearest
