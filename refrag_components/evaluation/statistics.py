"""Intervals and paired tests over items that several methods were measured on.

Values come in strata, one per set of questions: items are drawn inside their set, and a mean over
strata is the mean of the sets' means, however many items each has. Items that share something, a
passage or an article, are no independent evidence; drawn together, as a cluster, they count as the
one case that they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["around", "cluster_labels", "interval", "resample", "sign_flip_p_values"]

_SAMPLES = 2000


def cluster_labels(keys: Sequence[Sequence[str]]) -> np.ndarray:
    """Numbers the clusters of items that share a key, directly or through others.

    Args:
        keys: What each item may share with others; an item without a key is by itself.

    Returns:
        Number of each item's cluster, 0.. in the order of first items, shape (items,), int64.
    """
    leader = list(range(len(keys)))

    def first(item: int) -> int:
        while leader[item] != item:
            leader[item] = leader[leader[item]]
            item = leader[item]
        return item

    seen: dict[str, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            a, b = first(seen.setdefault(key, item)), first(item)
            leader[max(a, b)] = min(a, b)
    numbers: dict[int, int] = {}
    labels = [numbers.setdefault(first(item), len(numbers)) for item in range(len(keys))]
    return np.asarray(labels, dtype=np.int64)


def resample(
    strata: Sequence[np.ndarray],
    clusters: Sequence[np.ndarray] | None = None,
    *,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Bootstrap means of several methods, all drawn together.

    A row of the result comes from the same items for every method, so the difference of two
    columns is a paired bootstrap of their difference, and their quotient one of their ratio.

    Args:
        strata: Values of each set, shape (items, methods); the items of a set are its own.
        clusters: Cluster of each set's items, from ``cluster_labels``; whole clusters are drawn.
            None draws items.
        samples: Number of bootstrap samples.
        seed: Draws the items.

    Returns:
        Means over the sets, shape (samples, methods).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((samples, strata[0].shape[1]))
    for values, sizes in _summed(strata, clusters):
        n = len(sizes)
        # How often each cluster is drawn is all that a mean depends on.
        counts = rng.multinomial(n, np.full(n, 1 / n), size=samples)
        total += (counts @ values) / (counts @ sizes)[:, None]
    return total / len(strata)


def around(differences: np.ndarray, level: float) -> tuple[float, float]:
    """95% interval of a paired difference, moved to the level that it is a difference from.

    Items differ far more than methods do: an interval of a method's own mean shows how the items
    scatter, this one how surely the method differs from the one whose mean is the level.
    """
    low, high = interval(differences)
    return level + low, level + high


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of bootstrap draws, shape (samples,)."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def sign_flip_p_values(
    strata: Sequence[np.ndarray],
    clusters: Sequence[np.ndarray] | None = None,
    *,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Two-sided p-values that paired differences have mean zero, by random sign flips.

    Args:
        strata: Differences in each set, shape (items, pairs of methods).
        clusters: As for ``resample``; all items of a cluster flip together.
        samples: Number of random sign patterns; the smallest p-value is 1 / (samples + 1).
        seed: Draws the signs.

    Returns:
        One p-value per pair, shape (pairs,); several of them are not corrected for one another.
    """
    rng = np.random.default_rng(seed)
    observed = np.zeros(strata[0].shape[1])
    flipped = np.zeros((samples, strata[0].shape[1]))
    for differences, sizes in _summed(strata, clusters):
        signs = rng.choice([-1.0, 1.0], size=(samples, len(sizes)))
        observed += differences.sum(axis=0) / sizes.sum()
        flipped += signs @ differences / sizes.sum()
    # Sums of the same numbers in another order may differ in the last bits.
    as_large = np.abs(flipped) >= np.abs(observed) - 1e-12
    values: np.ndarray = (as_large.sum(axis=0) + 1) / (samples + 1)
    return values


def _summed(
    strata: Sequence[np.ndarray], clusters: Sequence[np.ndarray] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sum of the values of each cluster, and its number of items, for every set."""
    if clusters is None:
        return [(values, np.ones(len(values))) for values in strata]
    summed = []
    for values, labels in zip(strata, clusters, strict=True):
        sizes = np.bincount(labels).astype(np.float64)
        sums = np.zeros((len(sizes), values.shape[1]))
        np.add.at(sums, labels, values)
        summed.append((sums, sizes))
    return summed
