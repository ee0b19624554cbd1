from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refrag_components.vectors.codecs import CODECS, Codec, pack, unpack
from refrag_components.vectors.rotation import rotate

# Half the widest gap between two of the 16 values, as a fraction of the largest of them.
WIDEST = (2.73259 - 2.069017) / 2 / 2.73259


def round_trip(vectors: np.ndarray, codec: Codec = "rotated4") -> np.ndarray:
    return unpack(pack(vectors, codec), codec, vectors.shape)


def normal(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


@st.composite
def arrays(draw: st.DrawFn, largest: float = 2.0**120) -> np.ndarray:
    """Vectors of any width up to 1000: noise of any size, a few values chosen to be awkward."""
    width = draw(st.integers(1, 1000))
    n = draw(st.integers(0, 3))
    size = draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, largest / 10]))
    vectors = normal(n, width, draw(st.integers(0, 2**32 - 1))) * np.float32(size)
    awkward = draw(
        hnp.arrays(np.float32, min(width, 4), elements=st.floats(-largest, largest, width=32))
    )
    if draw(st.booleans()):
        vectors[:, : len(awkward)] = awkward
    return vectors


@given(arrays())
def test_rotated4_errs_by_half_a_gap_at_most(vectors: np.ndarray) -> None:
    errors = lengths(round_trip(vectors) - vectors.astype(np.float64))
    gaps = np.abs(rotate(vectors)).max(axis=1, initial=0) * WIDEST * np.sqrt(vectors.shape[1])
    assert (errors <= np.minimum(gaps, lengths(vectors)) * 1.005 + 1e-38).all()


@given(arrays())
@example(np.float32(1e-31) * np.array([[7.8649045, -1.4638926, 12.178495]], np.float32))
@example(np.float32(0.37) * np.ones((1, 1), np.float32))
def test_rotated4_loses_nothing_the_second_time(vectors: np.ndarray) -> None:
    once = round_trip(vectors)
    twice = round_trip(once)
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-6 * np.abs(once).max(initial=1e-30))


@given(arrays(largest=3.4028234663852886e38))
def test_rotated4_takes_every_finite_value(vectors: np.ndarray) -> None:
    read = round_trip(vectors)
    assert np.isfinite(read).all()
    assert (lengths(read - vectors.astype(np.float64)) <= lengths(vectors) * 1.005 + 1e-38).all()


@pytest.mark.parametrize("width", [64, 100, 384, 768, 1000])
def test_rotated4_keeps_directions(width: int) -> None:
    for vectors in (normal(200, width), np.eye(width, dtype=np.float32)):
        read = round_trip(vectors)
        cosines = (read * vectors).sum(axis=1) / lengths(read) / lengths(vectors)
        assert cosines.mean() > 0.99
    shuffled = pack(vectors[::-1], "rotated4")
    np.testing.assert_array_equal(unpack(shuffled, "rotated4", vectors.shape)[::-1], read)


def test_rotated4_packs_what_it_decoded_into_the_same_bytes() -> None:
    packed = pack(normal(100, 384), "rotated4")
    assert pack(unpack(packed, "rotated4", (100, 384)), "rotated4") == packed


@given(arrays(largest=65504.0), st.sampled_from(CODECS))
def test_packing_is_deterministic(vectors: np.ndarray, codec: Codec) -> None:
    assert pack(vectors, codec) == pack(vectors.copy(), codec)


@given(arrays(largest=65504.0), st.sampled_from(CODECS))
def test_bytes_too_few_or_too_many_are_refused(vectors: np.ndarray, codec: Codec) -> None:
    packed = pack(vectors, codec)
    assert unpack(packed, codec, vectors.shape).shape == vectors.shape
    for wrong in (packed + b"\0", packed[:-1], packed[: len(packed) // 2]):
        if len(wrong) != len(packed):
            with pytest.raises(ValueError):
                unpack(wrong, codec, vectors.shape)


def test_no_vectors_of_a_forged_width_cost_no_memory() -> None:
    for codec in CODECS:
        assert unpack(b"", codec, (0, 2**32 - 1)).shape == (0, 2**32 - 1)


def test_zeros_stay_zeros() -> None:
    for codec in CODECS:
        np.testing.assert_array_equal(round_trip(np.zeros((3, 7), np.float32), codec), 0)


@pytest.mark.parametrize("scale", [b"\x80\x7f", b"\xc0\x7f"])
def test_a_scale_that_is_no_number_is_refused(scale: bytes) -> None:
    packed = pack(normal(1, 8), "rotated4")
    with pytest.raises(ValueError, match="scale"):
        unpack(scale + packed[2:], "rotated4", (1, 8))


def test_the_stored_form_of_rotated4_never_changes() -> None:
    packed = bytes.fromhex("81405d3b298a6064bde0")
    expected = [
        [0.9020249, -1.9487511, 3.3538535, -4.0306621, 4.7552133],
        [0.0100156, 0.0001392, 0.0000667, 0.0001392, 0.0000663],
    ]
    np.testing.assert_allclose(unpack(packed, "rotated4", (2, 5)), expected, atol=1e-6)
