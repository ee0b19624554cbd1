from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import (
    NETWORKS,
    POLICY_FILE,
    PolicyNetwork,
    load_networks,
    save_networks,
)
from refrag_components.policies import LateInteractionPolicy, PolicyInputs
from refrag_components.policies.named.learned import observe
from tests.modeling.networks import WIDTH, alone, network, random_observation
from tests.tiny import TEXT


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25)
@given(
    st.integers(0, 2**16),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 4)), min_size=2, max_size=4),
    st.sampled_from([1, 4, 8]),
)
@example(4172, [(1, 0), (24, 0), (3, 2)], 8)  # late interaction scores all three chunks alike
def test_padding_changes_nothing(
    name: str, seed: int, sizes: list[tuple[int, int]], k: int
) -> None:
    chunks, questions = map(list, zip(*sizes, strict=True))
    seen = random_observation(seed, chunks, questions, k)
    with torch.no_grad():
        together = network(name)(seen)
        assert torch.isfinite(together).all()
        for row, (count, parts) in enumerate(sizes):
            single = network(name)(alone(seen, row, count, parts))
            torch.testing.assert_close(
                together[row : row + 1, :count], single, atol=1e-4, rtol=1e-4
            )


def test_a_new_network_starts_from_late_interaction(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(list(TEXT))
    width = tiny_model.encoder.width
    rarity = torch.rand(len(tiny_model.tokenizer))
    inputs = PolicyInputs(passages, *tiny_model.encode_questions(["Where is the harbour?"]))
    expected = LateInteractionPolicy().scores(inputs)
    fresh = PolicyNetwork(width, rarity, sees_question=True)
    found = fresh(observe(inputs))[0].detach().numpy()
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), rtol=1e-4)
    # Without a question it prefers no chunk.
    blank = PolicyInputs(passages, inputs.question.blanked)
    assert (fresh(observe(blank)) == 0).all()
    alone = PolicyNetwork(width, rarity, sees_question=False)
    assert (alone(observe(inputs)) == 0).all()


def test_prompts_without_chunks_and_gradients_stay_finite() -> None:
    seen = random_observation(1, [5, 0, 3], [0, 0, 2], 4)
    for name in NETWORKS:
        made = network(name)
        made(seen)[seen.present].sum().backward()
        for parameter in made.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_thousands_of_chunks() -> None:
    seen = random_observation(2, [4000], [10], 4)
    with torch.inference_mode():
        scores = network("learned-query")(seen)
    assert torch.isfinite(scores).all()
    assert scores.std() > 0


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / POLICY_FILE
    save_networks({name: network(name) for name in NETWORKS}, whole)
    path.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(UnknownModelError, match="damaged"):
        load_networks(path, WIDTH)
    with pytest.raises(UnknownModelError, match="another encoder"):
        load_networks(whole, WIDTH + 1)
    save_networks({"oracle": network("learned")}, path)
    with pytest.raises(UnknownModelError, match="oracle"):
        load_networks(path, WIDTH)
