"""Passages from clusters of candidates, as a way to diverse context."""

from __future__ import annotations

from itertools import zip_longest

import faiss
import numpy as np

__all__ = ["best_of_clusters"]

_SEED = 1234


def best_of_clusters(
    question: np.ndarray, passages: np.ndarray, count: int, clusters: int
) -> list[int]:
    """Picks passages from clusters in turn: the best of each, then the second best, and so on.

    The clusters are those of k-means over directions, the same ones every time. The one with the
    most similar passage comes first in each turn.

    Args:
        question: Search vector of the question, shape (d,), length 1.
        passages: Search vectors of the candidates, shape (n, d), length 1.
        count: Passages to pick; all if there are fewer.
        clusters: Number of clusters, at least 1; with as many as there are candidates, or more,
            the order is that of similarity.

    Returns:
        Indices of candidates in the order in which they were picked.

    Raises:
        ValueError: If there is not one cluster.
    """
    if clusters < 1:
        raise ValueError(f"give one cluster or more, got {clusters}")
    order = np.argsort(-(passages @ question), kind="stable")
    if clusters >= len(passages):
        return [int(i) for i in order[:count]]
    rows = np.ascontiguousarray(passages, dtype=np.float32)
    # Candidates are few: FAISS would warn of that on standard output.
    means = faiss.Kmeans(
        rows.shape[1], clusters, spherical=True, min_points_per_centroid=1, seed=_SEED
    )
    means.train(rows)
    _, nearest = means.index.search(rows, 1)
    members: dict[int, list[int]] = {}  # in the order of their best
    for i in order:
        members.setdefault(int(nearest[i, 0]), []).append(int(i))
    turns = zip_longest(*members.values())
    return [i for turn in turns for i in turn if i is not None][:count]
