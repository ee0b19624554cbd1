from __future__ import annotations

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    AllPolicy,
    FractionBudget,
    NonePolicy,
    Policy,
    PolicyInputs,
    RandomPolicy,
)
from tests.tiny import TEXT


@pytest.fixture
def inputs(tiny_model: RefragModel) -> PolicyInputs:
    (question,) = tiny_model.encode_questions(["Where is the harbour?"])
    return PolicyInputs(tiny_model.encode_passages(TEXT[:3]), question)


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
