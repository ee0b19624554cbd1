from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from refrag_components.evaluation.selections import SELECTIONS, chunk_scores, selections_of
from refrag_components.exceptions import UnknownPolicyError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import NETWORKS, PolicyNetwork
from refrag_components.policies import (
    POLICIES,
    PerplexityPolicy,
    Policy,
    PolicyInputs,
    make_policy,
)
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def inputs(tiny_model: RefragModel) -> list[PolicyInputs]:
    passages = tiny_model.encode_passages([*TEXT, " ".join(TEXT * 4)])
    when, what = tiny_model.encode_questions(["When was it dug?", "What rose by two metres?"])
    return [
        PolicyInputs(passages[:2], when),
        PolicyInputs(passages[1:], when),
        PolicyInputs(passages[4:], what),
    ]


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name in POLICIES])
def test_batched_scores_are_the_policy_s_own(
    tiny_model: RefragModel, inputs: list[PolicyInputs], name: str
) -> None:
    policy = make_policy(name, tiny_model)
    done: list[int] = []
    batched = chunk_scores(name, tiny_model, inputs, done.append)
    assert sum(done) == len(inputs)
    for context, scores in zip(inputs, batched, strict=True):
        np.testing.assert_allclose(scores, policy.scores(context), rtol=1e-3, atol=1e-4)


def test_ascending_perplexity_is_the_policy_s_too(
    tiny_model: RefragModel, inputs: list[PolicyInputs]
) -> None:
    policy: Policy = PerplexityPolicy(tiny_model, "ascending")
    (scores,) = chunk_scores("perplexity-ascending", tiny_model, inputs[:1])
    np.testing.assert_allclose(scores, policy.scores(inputs[0]), rtol=1e-3, atol=1e-4)


def test_the_last_chunks_are_the_most_recent(
    tiny_model: RefragModel, inputs: list[PolicyInputs]
) -> None:
    for context, scores in zip(inputs, chunk_scores("recent", tiny_model, inputs), strict=True):
        assert scores.shape == (context.n_chunks,)
        assert (np.diff(scores) > 0).all()


def test_an_unknown_selection_is_refused(
    tiny_model: RefragModel, inputs: list[PolicyInputs]
) -> None:
    with pytest.raises(UnknownPolicyError, match="recent"):
        chunk_scores("clairvoyance", tiny_model, inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_learned_policies_are_compared_where_they_were_trained(
    tiny_folder: Path, inputs: list[PolicyInputs], name: str
) -> None:
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    assert selections_of(model) == SELECTIONS
    torch.manual_seed(0)
    network = PolicyNetwork(
        model.encoder.width, torch.rand(len(model.tokenizer)), sees_question=NETWORKS[name]
    )
    torch.nn.init.normal_(network.head[1].weight)  # a new network scores all chunks alike
    model.policies[name] = network.eval()
    assert selections_of(model) == (*SELECTIONS, name)
    policy = make_policy(name, model)
    for context, scores in zip(inputs, chunk_scores(name, model, inputs), strict=True):
        np.testing.assert_allclose(scores, policy.scores(context), rtol=1e-3, atol=1e-3)
        assert np.ptp(scores) > 0
