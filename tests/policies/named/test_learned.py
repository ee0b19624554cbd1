from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.exceptions import UnknownPolicyError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_features import Observation
from refrag_components.modeling.policy_network import NETWORKS, POLICY_FILE, PolicyNetwork
from refrag_components.policies import (
    DEFAULT_POLICY,
    FractionBudget,
    LateInteractionPolicy,
    LearnedPolicy,
    LearnedQueryPolicy,
    PolicyInputs,
    make_policy,
)
from refrag_components.policies.named.learned import observe
from refrag_components.policies.named.learned_query import LATE, LOGIT_PER_TOKEN
from refrag_components.prompts.parts import PassagePart, TextPart
from tests.modeling.networks import VOCABULARY, WIDTH, network
from tests.tiny import TEXT


def _network(model: RefragModel, name: str) -> PolicyNetwork:
    made: Any = model.policies[name]
    return made


@pytest.fixture
def inputs(trained: RefragModel) -> PolicyInputs:
    (question,) = trained.encode_questions(["Where is the harbour?"])
    return PolicyInputs(trained.encode_passages(TEXT[:3]), question)


@pytest.mark.parametrize("policy", [LearnedPolicy, LearnedQueryPolicy])
def test_scores(policy: type[LearnedPolicy], trained: RefragModel, inputs: PolicyInputs) -> None:
    scores = policy(_network(trained, policy.name)).scores(inputs)
    assert scores.shape == (inputs.n_chunks,)
    assert scores.dtype == np.float32
    assert len(set(scores.tolist())) > 1
    np.testing.assert_array_equal(scores, make_policy(policy.name, trained).scores(inputs))


def test_only_the_query_policy_sees_the_question(
    trained: RefragModel, inputs: PolicyInputs
) -> None:
    other = PolicyInputs(
        inputs.passages, *trained.encode_questions(["How high did the river rise?"])
    )
    blind = make_policy("learned", trained)
    seeing = make_policy("learned-query", trained)
    np.testing.assert_array_equal(blind.scores(inputs), blind.scores(other))
    assert not np.array_equal(seeing.scores(inputs), seeing.scores(other))
    blank = PolicyInputs(inputs.passages, *trained.encode_questions([" "]))
    assert np.isfinite(seeing.scores(blank)).all()


def test_what_is_left_of_a_budget_goes_to_the_surroundings_of_likely_chunks(
    inputs: PolicyInputs,
) -> None:
    blank = PolicyInputs(inputs.passages, inputs.question.blanked)  # no late interaction
    counts = [passage.n_chunks for passage in inputs.passages]
    likely = counts[0] + 2  # in the second passage
    logits = torch.linspace(-1.0, -2.0, sum(counts))  # the first passage's come next
    logits[likely] = 3.0

    class Known(PolicyNetwork):
        def forward(self, seen: Observation, *, late: float = 0.0) -> torch.Tensor:
            return logits[None]

    known = Known(WIDTH, torch.rand(VOCABULARY), sees_question=True)
    scores = LearnedQueryPolicy(known).scores(blank)
    around = np.argsort(-scores, kind="stable")[:5]
    assert sorted(around) == list(range(likely - 2, likely + 3))
    away = LOGIT_PER_TOKEN * inputs.passages[1].chunk_size
    np.testing.assert_allclose(scores[around], 3.0 - away * np.array([0, 1, 1, 2, 2]), atol=1e-6)
    np.testing.assert_array_equal(scores[: counts[0]], logits[: counts[0]])  # none reaches over

    # A network that prefers none: what late interaction says is left.
    even = PolicyNetwork(WIDTH, torch.rand(VOCABULARY), sees_question=True)
    torch.nn.init.zeros_(even.shortcut.weight)
    late = LateInteractionPolicy().scores(inputs)
    added = even(observe(inputs), late=LATE).detach()[0]
    np.testing.assert_allclose(added, LATE * late, atol=1e-4)
    assert LearnedQueryPolicy(even).scores(inputs).argmax() == late.argmax()


def test_what_is_trained_is_the_default_where_a_question_is_asked(
    trained: RefragModel, tiny_model: RefragModel
) -> None:
    assert isinstance(make_policy(DEFAULT_POLICY, trained), LearnedQueryPolicy)
    assert isinstance(make_policy(DEFAULT_POLICY, tiny_model), LateInteractionPolicy)
    assert RefragGenerator(trained).policy.name == "learned-query"


def test_a_checkpoint_carries_its_policies(
    trained: RefragModel, tmp_path: Path, tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    for name in NETWORKS:
        for entry, tensor in network(name).state_dict().items():
            kept = trained.policies[name].state_dict()[entry]
            torch.testing.assert_close(kept, tensor, atol=2e-3, rtol=2e-3)
    assert not any(parameter.requires_grad for parameter in trained.policies.parameters())
    assert trained.fingerprint == tiny_model.fingerprint
    trained.save_pretrained(tmp_path / "again")
    again = RefragModel.from_pretrained(tmp_path / "again", device="cpu")
    np.testing.assert_allclose(
        make_policy("learned", again).scores(inputs),
        make_policy("learned", trained).scores(inputs),
        atol=1e-5,
    )


def test_a_checkpoint_without_policies_says_what_to_do(
    tiny_model: RefragModel, tiny_folder: Path
) -> None:
    assert not (tiny_folder / POLICY_FILE).exists()
    with pytest.raises(UnknownPolicyError, match=r"no trained policy 'learned'.*--stage policy"):
        make_policy("learned", tiny_model)
    with pytest.raises(UnknownPolicyError, match="'late-interaction'"):
        RefragGenerator(tiny_model, policy="learned-query")


def test_answers_are_prepared_with_it(trained: RefragModel) -> None:
    generator = RefragGenerator(trained, policy="learned", budget=FractionBudget(0.3))
    parts = (TextPart("Read:\n"), PassagePart(TEXT[0]), TextPart("\n"), PassagePart(TEXT[1]))
    request = Request(parts, "When was the harbour dug?")
    report = generator.prepare(request).report
    assert report.policy == "learned"
    assert 0 < report.expanded < report.chunks
    asked = Request(parts, request.question, policy="learned-query")
    assert generator.prepare(asked).report.policy == "learned-query"
