"""Scores and a fraction to the chunks that expand."""

from __future__ import annotations

import numpy as np

from refrag_components.policies.budget import FractionBudget

__all__ = ["select"]


def select(scores: np.ndarray, budget: FractionBudget) -> np.ndarray:
    """Chooses the chunks that expand: best first, the earlier of two equals.

    Args:
        scores: One finite score per chunk, shape (n_chunks,); higher expands first.
        budget: The fraction of them that expands.

    Returns:
        True where a chunk expands, shape (n_chunks,), bool.
    """
    order = np.argsort(-scores, kind="stable")
    expanded = np.zeros(len(order), dtype=bool)
    expanded[order[: budget.count(len(order))]] = True
    return expanded
