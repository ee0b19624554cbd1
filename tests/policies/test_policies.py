from __future__ import annotations

import numpy as np
import pytest

from refrag_components.exceptions import UnknownPolicyError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import NETWORKS
from refrag_components.policies import (
    POLICIES,
    AllPolicy,
    FractionBudget,
    NonePolicy,
    Policy,
    PolicyInputs,
    RandomPolicy,
    make_policy,
)
from tests.tiny import TEXT

#: Those that need no training; test_learned.py has the others.
HEURISTICS = [name for name in POLICIES if name not in NETWORKS]


@pytest.fixture
def inputs(tiny_model: RefragModel) -> PolicyInputs:
    (question,) = tiny_model.encode_questions(["Where is the harbour?"])
    return PolicyInputs(tiny_model.encode_passages(TEXT[:3]), question)


def test_names_are_sorted_and_make_their_policy(tiny_model: RefragModel) -> None:
    assert list(POLICIES) == sorted(POLICIES)
    for name in HEURISTICS:
        policy = make_policy(name, tiny_model)
        assert policy.name == name
        assert make_policy(policy, tiny_model) is policy


def test_unknown_name_lists_the_known_ones(tiny_model: RefragModel) -> None:
    names = "auto, all, late-interaction, learned, learned-query, none"
    with pytest.raises(UnknownPolicyError, match=rf"'best'.*{names}"):
        make_policy("best", tiny_model)


@pytest.mark.parametrize("name", HEURISTICS)
def test_one_finite_score_a_chunk_and_the_same_twice(
    name: str, tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    policy = make_policy(name, tiny_model)
    scores = policy.scores(inputs)
    assert scores.shape == (inputs.n_chunks,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, make_policy(name, tiny_model).scores(inputs))


def test_none_and_all_have_their_own_budget() -> None:
    asked = FractionBudget(0.3)
    assert NonePolicy().budget(asked) == FractionBudget(0.0)
    assert AllPolicy().budget(asked) == FractionBudget(1.0)
    assert RandomPolicy().budget(asked) is asked


def test_random_depends_on_seed_and_request(tiny_model: RefragModel, inputs: PolicyInputs) -> None:
    scores = RandomPolicy().scores(inputs)
    other_question = PolicyInputs(
        inputs.passages, *tiny_model.encode_questions(["When was it dug?"])
    )
    other_passages = PolicyInputs(inputs.passages[::-1], inputs.question)
    assert not np.array_equal(scores, RandomPolicy(seed=1).scores(inputs))
    assert not np.array_equal(scores, RandomPolicy().scores(other_question))
    assert not np.array_equal(scores, RandomPolicy().scores(other_passages))
    assert scores.min() >= 0
    assert scores.max() < 1


def test_a_policy_needs_only_scores(inputs: PolicyInputs) -> None:
    class First(Policy):
        name = "first"

        def scores(self, inputs: PolicyInputs) -> np.ndarray:
            return -np.arange(inputs.n_chunks, dtype=np.float32)

    assert First().scores(inputs).argmax() == 0
    assert First().budget(FractionBudget(0.5)) == FractionBudget(0.5)
