"""Scores and a budget to the chunks that expand."""

from __future__ import annotations

import numpy as np

from refrag_components.policies.budget import Budget

__all__ = ["select"]


def select(scores: np.ndarray, chunk_lengths: np.ndarray, budget: Budget) -> np.ndarray:
    """Chooses the chunks that expand: best first, the earlier of two equals.

    Args:
        scores: One score per chunk, shape (n_chunks,); higher expands first.
        chunk_lengths: Tokens of each chunk, shape (n_chunks,).
        budget: How many of them may expand.

    Returns:
        True where a chunk expands, shape (n_chunks,), bool.

    Raises:
        BudgetError: If the budget cannot hold the chunks.
        ValueError: If there is not one finite score per chunk.
    """
    if scores.shape != chunk_lengths.shape or not np.isfinite(scores).all():
        msg = (
            f"a policy must give one finite score for each of {len(chunk_lengths)} chunks, "
            f"got shape {scores.shape}"
        )
        raise ValueError(msg)
    order = np.argsort(-scores, kind="stable")
    expanded = np.zeros(len(order), dtype=bool)
    expanded[order[: budget.count(chunk_lengths[order])]] = True
    return expanded
