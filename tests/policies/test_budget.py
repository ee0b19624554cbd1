from __future__ import annotations

import ast
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refrag_components.exceptions import BudgetError
from refrag_components.policies import (
    Budget,
    FractionBudget,
    Milliseconds,
    PositionBudget,
    parse_budget,
    parse_rest,
    select,
)
from refrag_components.policies.budget import BUDGETS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_readme_shows_every_kind(kind: type[Budget]) -> None:
    section = README.partition("## How much is expanded")[2].partition("\n## ")[0]
    (example,) = re.findall(r'such as ("?[\w.]+"?)', kind.meaning)
    assert f"`{example}`" in section
    value = ast.literal_eval(example)
    assert isinstance(parse_budget(value), kind)
    assert parse_budget(value).number == value


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
    mask = select(scores, FractionBudget(0.4))
    assert mask.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.31, 3), (1, 10)])
def test_fraction_is_rounded_to_whole_chunks(fraction: float, count: int) -> None:
    assert select(np.arange(10.0), FractionBudget(fraction)).sum() == count


def test_the_rest_is_compressed_or_dropped() -> None:
    for rest in ("compress", "drop"):
        parse_rest(rest)
    for wrong in ("keep", "", None, ["drop"]):
        with pytest.raises(BudgetError, match="not 'compress' or 'drop'"):
            parse_rest(wrong)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_a_fraction_lies_between_none_and_all(fraction: float) -> None:
    with pytest.raises(BudgetError, match=r"0\.\.1"):
        FractionBudget(fraction)
    with pytest.raises(BudgetError, match="at least 2"):
        PositionBudget(0)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("40ms", 40.0), ("0.5 ms", 0.5), ("1e3ms", 1000.0)]
)
def test_reads_times(text: str, milliseconds: float) -> None:
    budget = parse_budget(text)
    assert budget == Milliseconds(milliseconds)
    assert parse_budget(budget.number) == budget


@pytest.mark.parametrize("text", ["0ms", "-1ms", "nanms", "ms", "40", "40 s", "1e400ms"])
def test_refuses_other_texts_and_no_time_at_all(text: str) -> None:
    with pytest.raises(BudgetError, match="40ms"):
        parse_budget(text)
