"""Intervals and paired tests over items that several methods were measured on.

Values come in strata, one a set of questions: items are drawn inside their set, and a mean over
strata is the mean of the sets' means, however many items each has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["around", "interval", "resample", "sign_flip_p_values"]

_SAMPLES = 2000


def resample(strata: Sequence[np.ndarray], *, samples: int = _SAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap means of several methods, all drawn together.

    A row of the result comes from the same items for every method, so the difference of two
    columns is a paired bootstrap of their difference, and their quotient one of their ratio.

    Args:
        strata: Values of each set, shape (items, methods); the items of a set are its own.
        samples: Number of bootstrap samples.
        seed: Draws the items.

    Returns:
        Means over the sets, shape (samples, methods).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((samples, strata[0].shape[1]))
    for values in strata:
        n = len(values)
        # How often each item is drawn is all that a mean depends on.
        counts = rng.multinomial(n, np.full(n, 1 / n), size=samples)
        total += counts @ values / n
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
    strata: Sequence[np.ndarray], *, samples: int = _SAMPLES, seed: int = 0
) -> np.ndarray:
    """Two-sided p-values that paired differences have mean zero, by random sign flips.

    Args:
        strata: Differences in each set, shape (items, pairs of methods).
        samples: Number of random sign patterns; the smallest p-value is 1 / (samples + 1).
        seed: Draws the signs.

    Returns:
        One p-value a pair, shape (pairs,); several of them are not corrected for one another.
    """
    rng = np.random.default_rng(seed)
    observed = np.zeros(strata[0].shape[1])
    flipped = np.zeros((samples, strata[0].shape[1]))
    for differences in strata:
        signs = rng.choice([-1.0, 1.0], size=(samples, len(differences)))
        observed += differences.mean(axis=0)
        flipped += signs @ differences / len(differences)
    # Sums of the same numbers in another order may differ in the last bits.
    as_large = np.abs(flipped) >= np.abs(observed) - 1e-12
    values: np.ndarray = (as_large.sum(axis=0) + 1) / (samples + 1)
    return values
