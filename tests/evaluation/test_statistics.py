from __future__ import annotations

import numpy as np
import pytest

from refrag_components.evaluation.statistics import (
    around,
    interval,
    resample,
    sign_flip_p_values,
)


def test_the_interval_covers_the_mean_and_narrows_with_more_items() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        values = rng.normal(0.4, 0.3, (n, 1))
        low, high = interval(resample([values])[:, 0])
        assert low < values.mean() < high
        return high - low

    assert width(1600) == pytest.approx(width(100) / 4, rel=0.5)


def test_methods_are_drawn_together() -> None:
    """A constant difference has no width, however much the items scatter."""
    items = np.random.default_rng(0).normal(size=(50, 1))
    draws = resample([np.hstack([items, items + 0.25])])
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 0.25)
    low, high = around(draws[:, 1] - draws[:, 0], 2.0)
    assert (low, high) == (pytest.approx(2.25), pytest.approx(2.25))


def test_every_set_counts_the_same() -> None:
    small, large = np.zeros((3, 1)), np.ones((300, 1))
    np.testing.assert_allclose(resample([small, large]), 0.5)


def test_p_values_are_small_for_real_differences_only() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 200)
    differences = np.stack([noise - noise.mean() + 0.5, noise - noise.mean(), np.zeros(200)], 1)
    real, none, equal = sign_flip_p_values([differences])
    assert real == pytest.approx(1 / 2001)
    assert none > 0.9
    assert equal == 1.0


def test_p_values_of_pure_chance_are_spread_evenly() -> None:
    rng = np.random.default_rng(1)
    p_values = sign_flip_p_values([rng.normal(size=(60, 400)), rng.normal(size=(30, 400))])
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.04)
