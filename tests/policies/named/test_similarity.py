from __future__ import annotations

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import PolicyInputs, SimilarityPolicy
from refrag_components.vectors import ChunkVectors
from tests.tiny import TEXT


def _question(*rows: list[float]) -> EncodedQuestion:
    """A question whose vectors are known."""
    return EncodedQuestion("?", np.zeros(2 * len(rows), int), np.array(rows, np.float32))


def _passage(*rows: list[float]) -> ChunkVectors:
    return ChunkVectors(np.array(rows, np.float32), np.arange(len(rows)), 1, "f")


def test_scores_are_cosines_in_the_order_of_the_chunks() -> None:
    passages = [_passage([2.0, 0.0], [0.0, 5.0]), _passage([-1.0, 0.0], [1.0, 1.0])]
    scores = SimilarityPolicy().scores(PolicyInputs(passages, _question([2.0, 1.0], [4.0, -1.0])))
    np.testing.assert_allclose(scores, [1.0, 0.0, -1.0, 0.5**0.5], atol=1e-6)


@pytest.mark.parametrize("question", [_question([0.0, 0.0]), _question([1.0, 0.0])])
def test_zero_vectors_score_zero(question: EncodedQuestion) -> None:
    inputs = PolicyInputs([_passage([0.0, 0.0])], question)
    assert SimilarityPolicy().scores(inputs).tolist() == [0.0]
    blank = PolicyInputs([_passage([1.0, 0.0])], question.blanked)
    assert SimilarityPolicy().scores(blank).tolist() == [0.0]


def test_a_chunk_resembles_itself_most(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT)
    (asked,) = tiny_model.encode_questions([TEXT[3]])
    scores = SimilarityPolicy().scores(PolicyInputs(passages, asked))
    question = asked.vectors.mean(axis=0)
    chunks = np.concatenate([p.vectors for p in passages])
    expected = chunks @ question / np.linalg.norm(chunks, axis=1) / np.linalg.norm(question)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
