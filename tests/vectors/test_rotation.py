from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.vectors.rotation import rotate, unrotate


def normal(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


@given(st.integers(1, 1000), st.integers(0, 2**32 - 1))
def test_keeps_lengths_and_angles_and_can_be_undone(width: int, seed: int) -> None:
    vectors = normal(3, width, seed)
    rotated = rotate(vectors)
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(unrotate(rotated), vectors, atol=1e-12)


@pytest.mark.parametrize("width", [64, 100, 384, 768, 1000])
def test_spreads_every_coordinate(width: int) -> None:
    # The largest share that one coordinate has of a vector that had all in one place.
    assert (rotate(np.eye(width)) ** 2).max() < 0.25
    assert np.median((rotate(np.eye(width)) ** 2).max(axis=1)) < 16 / width


def test_the_rotation_never_changes() -> None:
    # Stored vectors were rotated by it: other numbers here make them unreadable.
    expected = [
        [0.1464466094067263, -0.9571067811865472, -0.25],
        [-0.8535533905932736, -0.25, 0.4571067811865474],
        [0.5, -0.1464466094067263, 0.8535533905932736],
    ]
    np.testing.assert_allclose(rotate(np.eye(3)), expected, atol=1e-15)


def test_leaves_its_argument_alone() -> None:
    vectors = normal(2, 5)
    before = vectors.copy()
    unrotate(rotate(vectors))
    np.testing.assert_array_equal(vectors, before)


def test_no_vectors() -> None:
    assert rotate(np.zeros((0, 7))).shape == (0, 7)
