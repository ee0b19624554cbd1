"""Which chunks of a prompt expand, under its budget and the decoder's window."""

from __future__ import annotations

import numpy as np

from refrag_components.policies.budget import Budget, PositionBudget
from refrag_components.policies.selecting import select

__all__ = ["choose", "only_choice"]


def only_choice(lengths: np.ndarray, budget: Budget, limit: int) -> np.ndarray | None:
    """What expands if the budget leaves no choice, so that scores would be computed for nothing.

    Args:
        lengths: Tokens of each chunk, shape (n_chunks,).
        budget: How much may expand.
        limit: Decoder positions that the passages may take.

    Returns:
        True where a chunk expands, shape (n_chunks,); None if scores are needed.

    Raises:
        BudgetError: If the budget cannot hold the chunks.
    """
    if not len(lengths):
        return np.zeros(0, dtype=bool)
    most = budget.count(np.sort(lengths))  # the shortest first: an upper bound for any order
    if 0 < most < len(lengths):
        return None
    expanded = np.full(len(lengths), most > 0)
    return expanded if _positions(expanded, lengths) <= limit else None


def choose(
    scores: np.ndarray, lengths: np.ndarray, budget: Budget, limit: int
) -> tuple[np.ndarray, list[str]]:
    """Chooses under the budget, and again under the window's limit if that is tighter.

    Args:
        scores: One per chunk; higher expands first.
        lengths: As for ``only_choice``.
        budget: How much may expand.
        limit: Decoder positions that the passages may take, at least one per chunk.

    Returns:
        True where a chunk expands, shape (n_chunks,), and warnings.

    Raises:
        BudgetError: If the budget cannot hold the chunks.
        ValueError: If there is not one finite score per chunk.
    """
    expanded = select(scores, lengths, budget)
    positions = _positions(expanded, lengths)
    if positions <= limit:
        return expanded, []
    fitting = select(scores, lengths, PositionBudget(limit))
    return fitting, [
        f"{int(fitting.sum())} chunks were expanded instead of {int(expanded.sum())}: their "
        f"{positions} positions would not leave enough of the decoder's window for an answer"
    ]


def _positions(expanded: np.ndarray, lengths: np.ndarray) -> int:
    return int(np.where(expanded, lengths, 1).sum())
