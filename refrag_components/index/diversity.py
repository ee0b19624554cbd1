"""Passages that answer a question and differ from each other."""

from __future__ import annotations

import numpy as np

__all__ = ["most_diverse"]


def most_diverse(
    question: np.ndarray, passages: np.ndarray, count: int, diversity: float
) -> list[int]:
    """Picks passages by maximal marginal relevance.

    One after the other, the passage with the largest (1 - diversity) x similarity to the question
    - diversity x similarity to the most similar passage that was picked before.

    Args:
        question: Search vector of the question, shape (d,), length 1.
        passages: Search vectors of the candidates, shape (n, d), length 1.
        count: Passages to pick; all if there are fewer.
        diversity: From 0, similarity alone, to 1, difference alone.

    Returns:
        Indices of candidates in the order in which they were picked.

    Raises:
        ValueError: If the diversity is outside its range.
    """
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must be from 0 to 1, got {diversity!r}")
    relevance = passages @ question
    nearest = np.zeros(len(passages))
    left = np.ones(len(passages), dtype=bool)
    picked: list[int] = []
    for _ in range(min(count, len(passages))):
        scores = np.where(left, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(scores.argmax())
        similarity = passages @ passages[best]
        nearest = similarity if not picked else np.maximum(nearest, similarity)
        left[best] = False
        picked.append(best)
    return picked
