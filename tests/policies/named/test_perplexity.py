from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.modeling import RefragModel
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import PerplexityPolicy, PolicyInputs
from refrag_components.policies.named import perplexity as module
from tests.tiny import TEXT

_UNASKED = EncodedQuestion("", np.zeros(0, int), np.zeros((0, 1), np.float32))


def _expected(model: RefragModel, token_ids: np.ndarray, k: int) -> list[float]:
    """Token by token, with no batching and no tricks."""
    ids = [model.first_token_id, *token_ids.tolist()]
    losses = []
    for i in range(1, len(ids)):
        logits = model.decoder(input_ids=torch.tensor([ids[:i]])).logits[0, -1]
        losses.append(-logits.log_softmax(-1)[ids[i]].item())
    return [float(np.mean(losses[i : i + k])) for i in range(0, len(losses), k)]


def test_mean_negative_log_likelihood_of_each_chunk(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT[:2])
    scores = PerplexityPolicy(tiny_model).scores(PolicyInputs(passages, _UNASKED))
    expected = [x for p in passages for x in _expected(tiny_model, p.token_ids, p.chunk_size)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_ascending_is_the_opposite(tiny_model: RefragModel) -> None:
    inputs = PolicyInputs(tiny_model.encode_passages(TEXT[:1]), _UNASKED)
    ascending = PerplexityPolicy(tiny_model, order="ascending").scores(inputs)
    np.testing.assert_array_equal(ascending, -PerplexityPolicy(tiny_model).scores(inputs))
    with pytest.raises(ValueError, match="'up'"):
        PerplexityPolicy(tiny_model, order="up")  # type: ignore[arg-type]


def test_a_passage_is_read_once(tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PerplexityPolicy(tiny_model)
    first, second = tiny_model.encode_passages(TEXT[:2])
    alone = policy.scores(PolicyInputs([first], _UNASKED))
    calls: list[Any] = []
    forward = tiny_model.decoder.forward
    monkeypatch.setattr(
        tiny_model.decoder, "forward", lambda *a, **kw: calls.append(1) or forward(*a, **kw)
    )
    both = policy.scores(
        PolicyInputs([second, first], *tiny_model.encode_questions(["other question"]))
    )
    assert len(calls) == 1
    np.testing.assert_array_equal(both[second.n_chunks :], alone)


def test_a_passage_beyond_one_stride(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passage = tiny_model.encode_passages([" ".join(TEXT)])[0]
    monkeypatch.setattr(module, "_STRIDE", 16)
    scores = PerplexityPolicy(tiny_model).scores(PolicyInputs([passage], _UNASKED))
    windows = [passage.token_ids[i : i + 16] for i in range(0, passage.n_tokens, 16)]
    expected = [x for ids in windows for x in _expected(tiny_model, ids, passage.chunk_size)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
