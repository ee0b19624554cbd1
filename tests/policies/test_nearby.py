from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refrag_components.policies.nearby import nearby


@given(
    scores=arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(0, 9)), elements=st.floats(-1, 1)
    ),
    step=st.floats(0, 0.1),
)
def test_the_best_score_around_is_found_as_by_comparing_all(
    scores: np.ndarray, step: float
) -> None:
    n = scores.shape[1]
    away = step * np.abs(np.arange(n)[:, None] - np.arange(n))
    expected = (scores[:, None, :] - away).max(axis=2) if n else scores
    np.testing.assert_allclose(nearby(scores, step), expected, atol=1e-9)
    for row, alone in zip(nearby(scores, step), scores, strict=True):
        np.testing.assert_array_equal(nearby(alone, step), row)
