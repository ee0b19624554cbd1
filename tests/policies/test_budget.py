from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.exceptions import BudgetError
from refrag_components.policies import FractionBudget, PositionBudget, parse_budget, select


@pytest.mark.parametrize(
    ("given_value", "value"),
    [(0.25, 0.25), (0, 0.0), (1, 1.0), (2, 2), (np.float32(0.5), 0.5), (np.int64(7), 7)],
)
def test_reads_fractions_and_positions(given_value: Any, value: float) -> None:
    budget = parse_budget(given_value)
    assert budget == (FractionBudget if type(value) is float else PositionBudget)(value)
    assert budget.number == value
    assert type(budget.number) is type(value)
    assert parse_budget(budget) is budget


@pytest.mark.parametrize(
    "value",
    [-0.1, 1.0001, 2.0, math.nan, math.inf, -1, True, False, np.True_, "0.5", None, Fraction(3, 2)],
)
def test_refuses_the_rest_and_names_both_forms(value: Any) -> None:
    with pytest.raises(BudgetError, match=r"0\.\.1.*positions"):
        parse_budget(value)


def test_fraction_expands_the_best_and_the_earlier_of_two_equals() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.5, 0.2], np.float32)
    mask = select(scores, np.full(5, 4), parse_budget(0.4))
    assert mask.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.31, 3), (1, 10)])
def test_fraction_is_rounded_to_whole_chunks(fraction: float, count: int) -> None:
    assert select(np.arange(10.0), np.full(10, 4), parse_budget(fraction)).sum() == count


def test_positions_count_compressed_chunks_too() -> None:
    scores, lengths = np.array([3.0, 2.0, 1.0]), np.array([4, 4, 2])
    for positions, expanded in [(3, 0), (5, 0), (6, 1), (8, 1), (9, 2), (10, 3), (99, 3)]:
        mask = select(scores, lengths, parse_budget(positions))
        assert mask.sum() == expanded
        assert np.where(mask, lengths, 1).sum() <= positions


def test_fewer_positions_than_chunks_is_an_error_that_names_the_fix() -> None:
    with pytest.raises(BudgetError, match=r"2 positions cannot hold 3 chunks.*fewer passages"):
        select(np.zeros(3), np.full(3, 4), parse_budget(2))


@pytest.mark.parametrize("scores", [np.zeros(2), np.array([0.0, math.nan, 1.0])])
def test_refuses_scores_that_mean_nothing(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one finite score"):
        select(scores, np.full(3, 4), parse_budget(0.5))


def test_without_chunks_nothing_is_chosen() -> None:
    assert select(np.zeros(0), np.zeros(0, int), parse_budget(0.5)).shape == (0,)


@given(
    scores=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40),
    k=st.integers(1, 8),
    spare=st.integers(0, 300),
)
def test_a_larger_budget_only_adds_chunks(scores: list[float], k: int, spare: int) -> None:
    values, lengths = np.array(scores), np.full(len(scores), k)
    small = select(values, lengths, PositionBudget(len(scores) + spare))
    large = select(values, lengths, PositionBudget(len(scores) + spare + 1))
    assert (large >= small).all()
    assert np.where(small, lengths, 1).sum() <= len(scores) + spare
    if small.any() and not small.all():
        assert values[small].min() >= values[~small].max()


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_a_fraction_lies_between_none_and_all(fraction: float) -> None:
    with pytest.raises(BudgetError, match=r"0\.\.1"):
        FractionBudget(fraction)
    with pytest.raises(BudgetError, match="at least 2"):
        PositionBudget(0)
