from __future__ import annotations

import numpy as np
import pytest

from refrag_components.modeling import RefragModel
from refrag_components.policies import PolicyInputs, SimilarityPolicy
from refrag_components.vectors import ChunkVectors
from tests.tiny import TEXT


class _Question:
    """Stands for a model whose question vector is known."""

    def __init__(self, *vector: float) -> None:
        self._vector = np.array(vector, np.float32)

    def embed_question(self, text: str) -> np.ndarray:
        return self._vector


def _passage(*rows: list[float]) -> ChunkVectors:
    return ChunkVectors(np.array(rows, np.float32), np.arange(len(rows)), 1, "f")


def test_scores_are_cosines_in_the_order_of_the_chunks() -> None:
    passages = [_passage([2.0, 0.0], [0.0, 5.0]), _passage([-1.0, 0.0], [1.0, 1.0])]
    policy = SimilarityPolicy(_Question(3.0, 0.0))  # type: ignore[arg-type]
    scores = policy.scores(PolicyInputs(passages, "?"))
    np.testing.assert_allclose(scores, [1.0, 0.0, -1.0, 0.5**0.5], atol=1e-6)


@pytest.mark.parametrize("question", [(0.0, 0.0), (1.0, 0.0)])
def test_zero_vectors_score_zero(question: tuple[float, float]) -> None:
    policy = SimilarityPolicy(_Question(*question))  # type: ignore[arg-type]
    assert policy.scores(PolicyInputs([_passage([0.0, 0.0])], "?")).tolist() == [0.0]


def test_a_chunk_resembles_itself_most(tiny_model: RefragModel) -> None:
    passages = tiny_model.encode_passages(TEXT)
    question = tiny_model.embed_question(TEXT[3])
    scores = SimilarityPolicy(tiny_model).scores(PolicyInputs(passages, TEXT[3]))
    chunks = np.concatenate([p.vectors for p in passages])
    expected = chunks @ question / np.linalg.norm(chunks, axis=1) / np.linalg.norm(question)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
