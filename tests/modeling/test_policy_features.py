from __future__ import annotations

import numpy as np
import torch

from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_features import context_features, question_features
from refrag_components.policies import LateInteractionPolicy, PolicyInputs, SimilarityPolicy
from refrag_components.policies.named.learned import observe
from tests.modeling.networks import VOCABULARY
from tests.tiny import TEXT


def test_features_are_of_unit_size_and_see_what_heuristics_see(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages([TEXT[0], "", *TEXT[1:]])
    question = "Where does the harbour lie?"
    inputs = PolicyInputs(passages, *tiny_model.encode_questions([question]))
    seen = observe(inputs)
    rarity = torch.rand(VOCABULARY)
    features = question_features(seen, rarity)
    for policy, column in ((SimilarityPolicy, 0), (LateInteractionPolicy, 2)):
        expected = policy().scores(inputs)
        np.testing.assert_allclose(features[0, :, column], expected, atol=1e-5)
    assert features.abs().max() < 5
    assert context_features(seen, rarity).abs().max() < 5


def test_counted_features_of_a_small_prompt(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT[:2])
    seen = observe(PolicyInputs(passages, *tiny_model.encode_questions([""])))
    rarity = torch.linspace(0, 1, VOCABULARY)
    found = context_features(seen, rarity)[0].numpy()
    counts = [passage.n_chunks for passage in passages]
    in_passage = np.concatenate([np.arange(n) for n in counts])
    to_its_end = np.concatenate([np.arange(n)[::-1] for n in counts])
    np.testing.assert_allclose(np.expm1(4 * found[:, 5]), in_passage, atol=1e-3)
    np.testing.assert_allclose(np.expm1(4 * found[:, 6]), to_its_end, atol=1e-3)
    np.testing.assert_allclose(np.expm1(4 * found[:, 8]), np.arange(sum(counts))[::-1], atol=1e-3)
    first = passages[0].chunk_token_ids(0).tolist()
    np.testing.assert_allclose(found[0, :2], [rarity[first].mean(), rarity[first].max()], rtol=1e-5)
    assert (question_features(seen, rarity) == 0).all()
