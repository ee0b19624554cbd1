from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.modeling import RefragModel
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.modeling.policy_features import (
    COSINE_PER_SHARED_TOKEN,
    COSINE_PER_TOKEN,
    LATE_INTERACTION,
    question_features,
)
from refrag_components.policies import FractionBudget, LateInteractionPolicy, PolicyInputs, select
from refrag_components.policies.named.learned import observe
from refrag_components.vectors import ChunkVectors
from tests.tiny import TEXT


def _question(*rows: list[float], tokens: Sequence[int] = ()) -> EncodedQuestion:
    """A question with known vectors and tokens."""
    ids = np.array([*tokens, *[-1] * (2 * len(rows) - len(tokens))])
    return EncodedQuestion("?", ids, np.array(rows, np.float32).reshape(len(rows), -1))


def _scores(question: EncodedQuestion, *passages: ChunkVectors) -> np.ndarray:
    return LateInteractionPolicy().scores(PolicyInputs(passages, question))


def _passage(*rows: list[float], k: int = 1) -> ChunkVectors:
    return ChunkVectors(np.array(rows, np.float32), np.arange(len(rows) * k), k, "f")


def test_a_passage_expands_from_its_best_place_before_the_next_one() -> None:
    match, other, near = [3.0, 0.0], [0.0, 1.0], [1.0, 0.2]
    passages = [_passage(near, other), _passage(other, other, other, match, other)]
    scores = _scores(_question([1.0, 0.0]), *passages)
    expected = [1.0 - COSINE_PER_TOKEN * distance for distance in (3, 2, 1, 0, 1)]
    np.testing.assert_allclose(scores[2:], expected, atol=1e-6)
    order = np.argsort(-scores, kind="stable").tolist()
    assert order == [5, 4, 6, 3, 2, 0, 1]


def test_every_part_of_the_question_counts() -> None:
    question = _question([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    half = _passage([1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    both = _passage([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    scores = _scores(question, half, both)
    assert scores[2:].min() > 2 * scores[:2].max() - 0.01


def test_distance_counts_in_tokens() -> None:
    rows = [[1.0, 0.0], [0.0, 1.0]]
    scores = _scores(_question([1.0, 0.0]), _passage(*rows, k=4))
    assert scores[0] - scores[1] == pytest.approx(4 * COSINE_PER_TOKEN, abs=1e-6)


WORDS = ([9, 8, 9, 1, 7, 9, 9, 2], [9, 3, 9, 8, 9, 4, 9, 5])


def test_words_that_are_shared_count_by_how_rare_they_are() -> None:
    flat = [[0.0, 1.0]]
    passages = [ChunkVectors(np.array(flat * 4), np.array(ids), 2, "f") for ids in WORDS]
    whole, half, common, none = (
        _scores(_question([1.0, 0.0], tokens=(token, 98)), *passages) for token in (7, 8, 9, 99)
    )
    # Token 7 stands in one chunk of eight, 8 in two, 9 in every one.
    assert whole.argmax() == 2
    assert whole[2] == pytest.approx(COSINE_PER_SHARED_TOKEN)
    assert half[[0, 5]] == pytest.approx(COSINE_PER_SHARED_TOKEN * 2 / 3)
    assert (common == none).all()
    assert (none == 0).all()
    empty = ChunkVectors(np.zeros((0, 2), np.float32), np.zeros(0, int), 2, "f")
    parted = [passages[0], empty, passages[1], empty]
    assert (_scores(_question([1.0, 0.0], tokens=(7, 98)), *parted) == whole).all()
    assert _scores(_question([1.0, 0.0]), empty).shape == (0,)


@given(seed=st.integers(0, 999))
def test_training_and_queries_score_alike(seed: int, tiny_model: RefragModel) -> None:
    rng = np.random.default_rng(seed)
    words = " ".join(TEXT).split()
    *texts, question = (
        " ".join(rng.choice(words, size=rng.integers(1, 30))) for _ in range(rng.integers(2, 6))
    )
    (asked,) = tiny_model.encode_questions([question])
    inputs = PolicyInputs(tiny_model.encode_passages(texts), asked)
    expected = LateInteractionPolicy().scores(inputs)
    seen = observe(inputs)
    rarity = torch.ones(len(tiny_model.tokenizer))
    found = question_features(seen, rarity)[0, :, LATE_INTERACTION].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_stands_out_without_a_question_or_direction() -> None:
    passages = [_passage([1.0, 0.0], [0.0, 1.0]), _passage([0.0, 0.0])]
    assert _scores(_question([1.0, 0.0]).blanked, *passages).tolist() == [0, 0, 0]
    assert _scores(_question([1.0, 0.0]), passages[1]).tolist() == [0]


def test_a_passage_that_is_asked_for_expands_in_one_piece(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT)
    (question,) = tiny_model.encode_questions([TEXT[2]])
    scores = _scores(question, *passages)
    counts = [passage.n_chunks for passage in passages]
    expanded = select(scores, FractionBudget(counts[2] / sum(counts)))
    wanted = np.repeat(np.arange(len(counts)) == 2, counts)
    np.testing.assert_array_equal(expanded, wanted)
