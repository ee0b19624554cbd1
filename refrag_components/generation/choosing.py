"""Which chunks of a prompt expand, under its budget and the decoder's window."""

from __future__ import annotations

import numpy as np

from refrag_components.policies.budget import Budget, select

__all__ = ["choose", "only_choice"]


def only_choice(lengths: np.ndarray, budget: Budget, limit: int) -> np.ndarray | None:
    """What expands where the budget leaves no choice: scores would be computed for nothing.

    Args:
        lengths: Tokens of each chunk, shape (n_chunks,).
        budget: How much may expand.
        limit: Decoder positions that the passages may take.

    Returns:
        True where a chunk expands, shape (n_chunks,); None if scores are needed.
    """
    if not len(lengths):
        return np.zeros(0, dtype=bool)
    if not (isinstance(budget.value, float) and budget.value in (0.0, 1.0)):
        return None
    expanded = np.full(len(lengths), budget.value == 1.0)
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
    fitting = select(scores, lengths, Budget(limit))
    return fitting, [
        f"{int(fitting.sum())} chunks were expanded instead of {int(expanded.sum())}: their "
        f"{positions} positions would not leave enough of the decoder's window for an answer"
    ]


def _positions(expanded: np.ndarray, lengths: np.ndarray) -> int:
    return int(np.where(expanded, lengths, 1).sum())
