from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.policies.nearby import nearby
from refrag_components.vectors import ChunkVectors


def passage(chunks: int, k: int) -> ChunkVectors:
    return ChunkVectors(
        vectors=np.zeros((chunks, 2), np.float32),
        token_ids=np.zeros(chunks * k, np.int32),
        chunk_size=k,
        fingerprint="any",
    )


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    parts=st.integers(1, 3),
    k=st.sampled_from([1, 4]),
    per_token=st.floats(0, 0.1),
    seed=st.integers(0, 1000),
)
def test_the_best_score_around_is_found_as_by_comparing_all(
    sizes: list[int], parts: int, k: int, per_token: float, seed: int
) -> None:
    """Within each passage: what stands in another one is not near."""
    passages = [passage(size, k) for size in sizes]
    scores = np.random.default_rng(seed).uniform(-1, 1, (parts, sum(sizes)))
    number = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(sum(sizes))
    away = per_token * k * np.abs(place[:, None] - place)
    away[number[:, None] != number] = np.inf
    expected = (scores[:, None, :] - away).max(axis=2) if len(place) else scores
    found = nearby(scores, passages, per_token)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    for row, alone in zip(found, scores, strict=True):
        np.testing.assert_array_equal(nearby(alone, passages, per_token), row)
