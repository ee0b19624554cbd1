"""Comparisons put the best parts first, and there are never more of them than allowed."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    ComparisonPolicy,
    FractionBudget,
    LateInteractionPolicy,
    PolicyInputs,
    RandomPolicy,
    select,
)
from refrag_components.policies.stretches import stretches
from tests.tiny import TEXT

QUESTION = "Where is the harbour?"


@pytest.fixture
def inputs(tiny_model: RefragModel) -> PolicyInputs:
    question = tiny_model.encode_questions([QUESTION])[0]
    return PolicyInputs(tiny_model.encode_passages(TEXT), question)


class Judge:
    """A model that likes what has most letters z, then what comes later in the alphabet."""

    def __init__(self) -> None:
        self.windows: list[list[str]] = []

    def __call__(self, prompt: str) -> str:
        parts = re.findall(r"^\[(\d+)\] (.*)$", prompt, flags=re.MULTILINE)
        self.windows.append([text for _, text in parts])
        return " > ".join(number for number, text in sorted(parts, key=lambda p: p[1])[::-1])


def ordered(model: RefragModel, inputs: PolicyInputs, policy: ComparisonPolicy) -> list[str]:
    """The parts by the scores of their best chunks."""
    scores = policy.scores(inputs)
    parts = stretches(inputs, model.tokenizer, 8)
    best = [-scores[part.first : part.last].max() for part in parts]
    return [parts[i].text for i in np.argsort(best, kind="stable")]


@pytest.mark.parametrize("window", [2, 4])
def test_enough_comparisons_find_the_best(
    tiny_model: RefragModel, inputs: PolicyInputs, window: int
) -> None:
    judge = Judge()
    policy = ComparisonPolicy(
        judge, comparisons=200, window=window, stretch=8, tokenizer=tiny_model.tokenizer
    )
    found = ordered(tiny_model, inputs, policy)
    assert found == sorted(found, reverse=True)
    assert all(2 <= len(own) <= window for own in judge.windows)


@pytest.mark.parametrize("comparisons", [1, 3, 5])
def test_a_budget_of_comparisons_holds(
    tiny_model: RefragModel, inputs: PolicyInputs, comparisons: int
) -> None:
    judge = Judge()
    policy = ComparisonPolicy(
        judge, comparisons=comparisons, stretch=8, tokenizer=tiny_model.tokenizer
    )
    found = ordered(tiny_model, inputs, policy)
    assert len(judge.windows) == comparisons
    compared = {text for own in judge.windows for text in own}
    assert len(compared) == comparisons + 1  # one pass over the first ones
    assert found[0] == max(compared)
    assert {*found[: comparisons + 1]} == compared


@pytest.mark.parametrize("comparisons", [1, 2, 3])
def test_a_budget_of_lists_holds(
    tiny_model: RefragModel, inputs: PolicyInputs, comparisons: int
) -> None:
    """Each list after the first compares as many new parts as half of it."""
    judge = Judge()
    policy = ComparisonPolicy(
        judge, comparisons=comparisons, window=4, stretch=8, tokenizer=tiny_model.tokenizer
    )
    found = ordered(tiny_model, inputs, policy)
    assert [len(own) for own in judge.windows] == [4] * comparisons
    compared = {text for own in judge.windows for text in own}
    assert len(compared) == 4 + 2 * (comparisons - 1)
    assert found[:2] == sorted(compared, reverse=True)[:2]


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("reply", ["2", "2, 1, 2, 1, 77", "1 2 3 4 5", "both", ""])
def test_a_budget_of_chunks_holds_whatever_it_says(
    tiny_model: RefragModel, inputs: PolicyInputs, reply: str, window: int
) -> None:
    policy = ComparisonPolicy(
        lambda prompt: reply, window=window, stretch=8, tokenizer=tiny_model.tokenizer
    )
    for share in (0.0, 0.3, 1.0):
        expanded = select(policy.scores(inputs), FractionBudget(share))
        assert expanded.sum() == round(share * inputs.n_chunks)


def test_a_list_of_which_it_names_a_part_keeps_the_order_of_the_others(
    tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    shown: list[list[str]] = []

    def third(prompt: str) -> str:
        shown.append(re.findall(r"^\[\d+\] (.*)$", prompt, flags=re.MULTILINE))
        return "Part 3 helps most."

    policy = ComparisonPolicy(
        third, comparisons=1, window=5, stretch=8, tokenizer=tiny_model.tokenizer
    )
    found = ordered(tiny_model, inputs, policy)
    first, second, best, *others = shown[0]
    assert found[:5] == [best, first, second, *others]


def test_it_starts_with_the_order_of_another_policy(
    tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    """With one comparison the two parts that this policy ranks first."""
    judge, other = Judge(), RandomPolicy()
    unbound = ComparisonPolicy(judge, comparisons=1, stretch=8, otherwise=other)
    found = ordered(tiny_model, inputs, unbound.of(tiny_model))
    plain = other.scores(inputs)
    parts = stretches(inputs, tiny_model.tokenizer, 8)
    best = [-plain[part.first : part.last].max() for part in parts]
    order = [parts[i].text for i in np.argsort(best, kind="stable")]
    assert sorted(judge.windows[0]) == sorted(order[:2])
    assert found[2:] == order[2:]


def test_nonsense_changes_nothing_and_a_failure_ends_it(
    tiny_model: RefragModel, inputs: PolicyInputs, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def fails(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) > 2:
            raise ConnectionError("no route")
        return "Both are good."

    policy = ComparisonPolicy(fails, stretch=8, tokenizer=tiny_model.tokenizer)
    with caplog.at_level(logging.WARNING):
        found = ordered(tiny_model, inputs, policy)
    assert len(asked) == 3
    assert "changes nothing" in caplog.text
    assert "no route" in caplog.text
    plain = LateInteractionPolicy().scores(inputs)
    parts = stretches(inputs, tiny_model.tokenizer, 8)
    best = [-plain[part.first : part.last].max() for part in parts]
    assert found == [parts[i].text for i in np.argsort(best, kind="stable")]


def test_small_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="window at least 2"):
        ComparisonPolicy(str, window=1)
