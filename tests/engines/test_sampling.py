from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from refrag_components.engines.sampling import Sampler, SamplingParams, params_by_row
from refrag_components.exceptions import RefragError, SamplingError

_NO_IDS = torch.zeros(0, dtype=torch.long)
_LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])


def _draw(params: SamplingParams, n: int = 400, prompt: torch.Tensor = _NO_IDS) -> Counter[int]:
    sampler = Sampler(params, prompt)
    return Counter(int(sampler(_LOGITS)) for _ in range(n))


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
        {"stop": ("",)},
        {"stop": (1,)},
        {"seed": -1},
        {"seed": 2**63},
        {"top_logprobs": -1},
        {"top_logprobs": 21},
        {"top_logprobs": True},
        {"timeout": 0},
        {"timeout": math.inf},
        {"timeout": math.nan},
    ],
)
def test_values_outside_their_range_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match=next(iter(values))) as caught:
        SamplingParams(**values)
    assert isinstance(caught.value, RefragError)
    assert isinstance(caught.value, ValueError)


def test_stop_becomes_a_tuple() -> None:
    assert SamplingParams(stop="ab").stop == ("ab",)
    assert SamplingParams(stop=["ab", "c"]).stop == ("ab", "c")


def test_one_for_all_rows_gives_each_its_own_seed() -> None:
    assert [p.seed for p in params_by_row(SamplingParams(seed=5), 3)] == [5, 6, 7]
    assert [p.seed for p in params_by_row(SamplingParams(), 2)] == [None, None]
    given = [SamplingParams(seed=1), SamplingParams(seed=1)]
    assert params_by_row(given, 2) == given
    with pytest.raises(SamplingError, match="2 sampling parameters for 3 prompts"):
        params_by_row(given, 3)


def test_temperature_zero_is_greedy_whatever_else_is_set() -> None:
    assert _draw(SamplingParams(top_p=0.1, top_k=3), n=5) == {1: 5}


def test_top_k_and_top_p_limit_the_choice() -> None:
    assert set(_draw(SamplingParams(temperature=5, top_k=2, seed=0))) == {1, 3}
    assert set(_draw(SamplingParams(temperature=1, top_p=0.8, seed=0))) == {1, 3}
    assert set(_draw(SamplingParams(temperature=5, top_k=99, seed=0))) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("temperature", [0.7, 1, 2.5])
def test_draws_follow_the_softmax(temperature: float) -> None:
    n = 4000
    drawn = _draw(SamplingParams(temperature=temperature, seed=3), n=n)
    expected = (_LOGITS / temperature).softmax(-1)
    for token, p in enumerate(expected.tolist()):
        assert drawn[token] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n) + 1e-3)


def test_seeds_reproduce() -> None:
    def run(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=2, seed=seed), _NO_IDS)
        return [int(sampler(_LOGITS)) for _ in range(30)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(None) != run(None)


def test_repetition_penalty_counts_prompt_and_answer() -> None:
    greedy = SamplingParams(repetition_penalty=10.0)
    assert list(_draw(greedy, n=1, prompt=torch.tensor([1]))) == [3]
    sampler = Sampler(greedy, _NO_IDS)
    # Each of the positive ones is divided by ten once it was chosen.
    assert [int(sampler(_LOGITS)) for _ in range(3)] == [1, 3, 2]
    below_zero = Sampler(greedy, torch.tensor([0]))
    assert int(below_zero(torch.tensor([-1.0, -2.0]))) == 1


def test_logits_are_left_as_they_are() -> None:
    logits = _LOGITS.clone()
    Sampler(SamplingParams(temperature=0.5, top_k=1, repetition_penalty=2.0), _NO_IDS)(logits)
    assert torch.equal(logits, _LOGITS)
