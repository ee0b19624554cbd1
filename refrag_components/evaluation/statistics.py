"""Intervals and paired tests over items on which several methods were measured.

Values come in strata, one per set of questions: items are drawn within their set, and a mean over
strata is the mean of the sets' means, however many items each has. Items that share a passage or an
article are not independent evidence; drawn together, as a cluster, they count as one case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "around",
    "cluster_labels",
    "interval",
    "mean_of_sets",
    "resample",
    "sign_flip_p_values",
]

_SAMPLES = 2000


def cluster_labels(keys: Sequence[Sequence[str]]) -> np.ndarray:
    """Finds the clusters of items that share a key, directly or through other items.

    Args:
        keys: Keys of each item; an item without keys is a cluster by itself.

    Returns:
        Label of each item's cluster, from 0 in the order of first items, shape (items,), int64.
    """
    leader = list(range(len(keys)))

    def first(item: int) -> int:
        while leader[item] != item:
            leader[item] = leader[leader[item]]
            item = leader[item]
        return item

    seen: dict[str, int] = {}
    for item, item_keys in enumerate(keys):
        for key in item_keys:
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
    """Bootstrap means of several columns, all drawn together.

    A row of the result comes from the same items for every column. So if columns are methods, the
    difference of two columns is a paired bootstrap of their difference, and the quotient is one of
    their ratio.

    Args:
        strata: Values of each set, shape (items, columns), NaN where an item does not count for a
            column; sets may differ in their number of items.
        clusters: Cluster labels of each set's items, from ``cluster_labels``; whole clusters are
            drawn. None draws single items.
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        Means over the sets, shape (samples, columns); NaN if none of the drawn items counts.
    """
    rng = np.random.default_rng(seed)
    means = []
    for values, sizes in _summed(strata, clusters):
        n = len(sizes)
        # A mean depends only on how often each cluster is drawn.
        counts = rng.multinomial(n, np.full(n, 1 / n), size=samples)
        means.append(_ratio(counts @ values, counts @ sizes))
    return _mean_of_sets(means)


def mean_of_sets(strata: Sequence[np.ndarray]) -> np.ndarray:
    """The means around which ``resample`` scatters, shape (columns,)."""
    means = [_ratio(v.sum(axis=0), s.sum(axis=0)) for v, s in _summed(strata, None)]
    return _mean_of_sets(means)


def around(differences: np.ndarray, level: float) -> tuple[float, float]:
    """95% interval of a paired difference, shifted to the level of the other method's mean.

    Items differ far more than methods do: an interval of a method's mean shows how the items
    scatter, this one shows how certain the difference from the other method is.
    """
    low, high = interval(differences)
    return level + low, level + high


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of bootstrap draws, shape (samples,), ignoring NaN."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
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
        seed: Seed of the signs.

    Returns:
        One p-value per pair, shape (pairs,), not corrected for multiple tests.
    """
    rng = np.random.default_rng(seed)
    observed = np.zeros(strata[0].shape[1])
    flipped = np.zeros((samples, strata[0].shape[1]))
    for differences, sizes in _summed(strata, clusters):
        signs = rng.choice([-1.0, 1.0], size=(samples, len(sizes)))
        observed += differences.sum(axis=0) / sizes.sum(axis=0)
        flipped += signs @ differences / sizes.sum(axis=0)
    # Sums of the same numbers in another order may differ in the last bits.
    as_large = np.abs(flipped) >= np.abs(observed) - 1e-12
    values: np.ndarray = (as_large.sum(axis=0) + 1) / (samples + 1)
    return values


def _summed(
    strata: Sequence[np.ndarray], clusters: Sequence[np.ndarray] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every set the sum and the number of each cluster's values, (clusters, columns)."""
    summed = []
    for i, values in enumerate(strata):
        counted = ~np.isnan(values)
        sums, sizes = np.where(counted, values, 0.0), counted.astype(np.float64)
        if clusters is not None:
            order = np.argsort(clusters[i], kind="stable")
            first = np.searchsorted(clusters[i][order], np.arange(clusters[i].max() + 1))
            sums, sizes = (np.add.reduceat(rows[order], first) for rows in (sums, sizes))
        summed.append((sums, sizes))
    return summed


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        means: np.ndarray = sums / sizes
    return means


def _mean_of_sets(means: Sequence[np.ndarray]) -> np.ndarray:
    """Each set counts the same; a set without items that count is left out."""
    known = [~np.isnan(of_set) for of_set in means]
    filled = [np.where(k, of_set, 0.0) for k, of_set in zip(known, means, strict=True)]
    return _ratio(np.sum(filled, axis=0), np.sum(known, axis=0))
