from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.evaluation.statistics import (
    around,
    cluster_labels,
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


KEYS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=3), min_size=1, max_size=12)


@given(KEYS)
def test_items_that_share_a_key_are_one_cluster(keys: list[list[str]]) -> None:
    labels = cluster_labels(keys)
    assert sorted({*labels.tolist()}) == list(range(labels.max() + 1))
    together = {(i, j) for i, j in combinations(range(len(keys)), 2) if {*keys[i]} & {*keys[j]}}
    for i, j in combinations(range(len(keys)), 2):
        reached = {i}
        while more := {b for a, b in together if a in reached} | {
            a for a, b in together if b in reached
        }:
            if more <= reached:
                break
            reached |= more
        assert (labels[i] == labels[j]) == (j in reached)


def test_clusters_of_one_item_are_items() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    np.testing.assert_allclose(resample([values], [np.arange(40)]), resample([values]))
    np.testing.assert_allclose(
        sign_flip_p_values([values], [np.arange(40)]), sign_flip_p_values([values])
    )


def test_copies_of_an_item_are_no_more_evidence_than_one() -> None:
    """Ten copies of each case narrow the interval of items, not that of clusters."""
    rng = np.random.default_rng(0)
    cases = rng.normal(0.3, 1.0, (30, 1))
    copies, labels = np.repeat(cases, 10, axis=0), np.repeat(np.arange(30), 10)

    def width(draws: np.ndarray) -> float:
        low, high = interval(draws[:, 0])
        return high - low

    single = width(resample([cases]))
    assert width(resample([copies], [labels])) == pytest.approx(single, rel=1e-6)
    assert width(resample([copies])) < single / 2
    (alone,) = sign_flip_p_values([cases])
    (clustered,) = sign_flip_p_values([copies], [labels])
    (fooled,) = sign_flip_p_values([copies])
    assert clustered == pytest.approx(alone)
    assert fooled < clustered / 2


def test_clusters_of_several_sizes_keep_the_mean_of_items() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    values = rng.normal(0, 0.1, (len(labels), 1)) + (labels % 5 == 0)[:, None]
    low, high = interval(resample([values], [labels])[:, 0])
    assert low < values.mean() < high
    # Methods are drawn together here too.
    draws = resample([np.hstack([values, values - 2.0])], [labels])
    np.testing.assert_allclose(draws[:, 0] - draws[:, 1], 2.0)
