"""Budgets, policies and sampling parameters that make no sense: refused in our own words."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.engines import SamplingParams
from refrag_components.engines.sampling import Sampler
from refrag_components.exceptions import (
    AnswerTimeoutError,
    BudgetError,
    SamplingError,
    ServerError,
    UnknownPolicyError,
)
from refrag_components.generation.choosing import Chunks, choose
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.generation.settings import AnswerSettings
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget, PositionBudget, check_policy, parse_budget
from refrag_components.prompts.parts import TextPart
from tests.tiny import TEXT


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


ODD: tuple[Any, ...] = (
    *(None, True, False, np.True_, "", "x", "0.5", "5", b"5", "\ud800", [], [1], (), {}, {"a"}),
    *(object, object(), Hostile(), print, Decimal("0.5"), Decimal("NaN"), 1j, Fraction(7, 2)),
    *(-1, -0.1, 2.5, 1e400, -1e400, math.nan, 10**400, -(10**400), 10**5000, 1e-320, 5e-324),
    *(np.array(0.5), np.array([1, 2]), np.float32("nan"), np.int64(-3), torch.tensor(0.5)),
    *(np.datetime64("2020-01-01"), 1e300, 2**63, 2**64, -0.0, 0, 1, 3, np.float16(0.5)),
)
FIELDS = (
    *("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed"),
    *("reproducible", "timeout"),
)
LOGITS = torch.tensor([30.0, -30.0, 3.0, 1e3])


@pytest.mark.parametrize("make", [parse_budget, FractionBudget, PositionBudget])
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_budgets(make: Callable[[Any], Any], value: Any) -> None:
    try:
        budget = make(value)
    except BudgetError as error:
        assert len(str(error)) < 400
        return
    chunks = Chunks(np.array([3]), np.full(3, 4), (4,))
    choice = choose(np.zeros(3), chunks, budget, "compress", limit=12)
    assert 0 <= chunks.positions(choice) <= max(budget.number, 12)
    assert parse_budget(budget) is budget


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_sampling_parameters(name: str, value: Any) -> None:
    given = {name: value} if name != "seed" else {name: value, "temperature": 1.0}
    if name in ("top_p", "top_k", "repetition_penalty"):
        given["temperature"] = 0.7
    try:
        params = SamplingParams(**given)
    except SamplingError as error:
        assert name in str(error)
        assert len(str(error)) < 400
        return
    assert (type(value) is bool) == (name == "reproducible")
    sampler = Sampler(params, torch.arange(2))
    assert sampler(LOGITS).item() in range(4)


@pytest.mark.parametrize("name", ("connect_timeout", "read_timeout"))
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_times_for_a_server(name: str, value: Any) -> None:
    try:
        settings = Settings(base_url="http://127.0.0.1:9/v1", **{name: value})
    except ServerError as error:
        assert name in str(error)
        assert len(str(error)) < 400
        return
    with pytest.raises(ServerError, match="refrag serve"):
        assert settings._server is not None and settings._server.served


@pytest.mark.parametrize("seconds", [1e-300, Fraction(1, 7), 1e9])
def test_odd_times_for_an_answer(tiny_model: RefragModel, seconds: Any) -> None:
    request = Request((TextPart("When?"),), "When?")
    with suppress(AnswerTimeoutError):
        RefragGenerator(tiny_model).generate([request], SamplingParams(timeout=seconds))


@pytest.mark.parametrize("name", ("temperature", "repetition_penalty", "top_p"))
def test_the_ends_of_the_ranges_give_tokens(name: str) -> None:
    for value in (0.0001, 0.001, 1.0, 1000.0, 10_000.0):
        try:
            params = SamplingParams(**{"temperature": 1.0, name: value})
        except SamplingError:
            continue
        assert Sampler(params, torch.arange(2))(LOGITS).item() in range(4)


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_policies(value: Any) -> None:
    with pytest.raises(UnknownPolicyError):
        check_policy(value)


class Settings(AnswerSettings):
    model: str = "refrag-smollm2-135m"


@pytest.mark.parametrize("name", ("max_tokens", "temperature", "top_p", "seed"))
@pytest.mark.parametrize("value", [True, "5", b"5", [5], math.nan, -1])
def test_settings_convert_nothing(name: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=name):
        Settings(**{name: value})
    with pytest.raises(SamplingError, match=name):
        Settings()._for_call({name: value})


@pytest.mark.parametrize("stop", [[""], [1], 5, 0, {}, b"x"])
def test_settings_take_stops_that_are_strings(stop: Any) -> None:
    with pytest.raises(SamplingError, match="stop"):
        Settings(stop=stop)


def test_answers_longer_than_any_window_are_cut(tiny_model: RefragModel) -> None:
    request = Request((TextPart(" ".join(TEXT) * 5),), "When?", budget=PositionBudget(10**30))
    (answer,) = RefragGenerator(tiny_model).generate([request], SamplingParams(max_tokens=10**30))
    assert any("limited to" in warning for warning in answer.report.warnings)
