from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refrag_components.vectors.codec_names import Codec
from refrag_components.vectors.codecs import CODECS, VectorCodec, codec_named, codec_numbered
from refrag_components.vectors.rotation import rotate

# Half the widest gap between two of the 16 values, as a fraction of the largest of them.
WIDEST = (2.73259 - 2.069017) / 2 / 2.73259


ROTATED4 = CODECS["rotated4"]
every_codec = st.sampled_from(list(CODECS.values()))


def round_trip(vectors: np.ndarray, codec: VectorCodec = ROTATED4) -> np.ndarray:
    return codec.unpack(codec.pack(vectors), vectors.shape)


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
    shuffled = ROTATED4.pack(vectors[::-1])
    np.testing.assert_array_equal(ROTATED4.unpack(shuffled, vectors.shape)[::-1], read)


def test_rotated4_packs_what_it_decoded_into_the_same_bytes() -> None:
    packed = ROTATED4.pack(normal(100, 384))
    assert ROTATED4.pack(ROTATED4.unpack(packed, (100, 384))) == packed


@given(arrays(largest=65504.0), every_codec)
def test_packing_is_deterministic(vectors: np.ndarray, codec: VectorCodec) -> None:
    assert codec.pack(vectors) == codec.pack(vectors.copy())


@given(arrays(largest=65504.0), every_codec)
def test_bytes_too_few_or_too_many_are_refused(vectors: np.ndarray, codec: VectorCodec) -> None:
    packed = codec.pack(vectors)
    assert codec.unpack(packed, vectors.shape).shape == vectors.shape
    for wrong in (packed + b"\0", packed[:-1], packed[: len(packed) // 2]):
        if len(wrong) != len(packed):
            with pytest.raises(ValueError):
                codec.unpack(wrong, vectors.shape)


def test_no_vectors_of_a_forged_width_cost_no_memory() -> None:
    for codec in CODECS.values():
        assert codec.unpack(b"", (0, 2**32 - 1)).shape == (0, 2**32 - 1)


def test_zeros_stay_zeros() -> None:
    for codec in CODECS.values():
        np.testing.assert_array_equal(round_trip(np.zeros((3, 7), np.float32), codec), 0)


@pytest.mark.parametrize("scale", [b"\x80\x7f", b"\xc0\x7f"])
def test_a_scale_that_is_no_number_is_refused(scale: bytes) -> None:
    packed = ROTATED4.pack(normal(1, 8))
    with pytest.raises(ValueError, match="scale"):
        ROTATED4.unpack(scale + packed[2:], (1, 8))


@pytest.mark.parametrize(
    ("name", "number", "packed"),
    [
        ("float32", 0, "0000803f00008040000020c100000000"),
        ("float16", 1, "003c004400c90000"),
        ("int8", 2, "0302013d8442a13d207f8100"),
        ("rotated4", 3, "bc3f6a405ff7"),
    ],
)
def test_the_stored_form_never_changes(name: Codec, number: int, packed: str) -> None:
    vectors = np.array([[1, 4], [-10, 0]], np.float32)
    codec = CODECS[name]
    assert (codec.number, codec.pack(vectors).hex()) == (number, packed)
    read = codec.unpack(bytes.fromhex(packed), (2, 2))
    np.testing.assert_allclose(read, vectors, atol=0.02 if name != "rotated4" else 2)
    assert codec_numbered(number) is codec


def test_an_unknown_codec_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"'int4'.*float32, float16, int8, rotated4"):
        codec_named("int4")
    with pytest.raises(ValueError, match="9"):
        codec_numbered(9)


def test_the_documentation_lists_the_codecs_that_there_are() -> None:
    docs = Path(__file__).parents[2] / "docs" / "codecs.md"
    lines = [f"| `{codec.name}` | {codec.summary} |" for codec in CODECS.values()]
    assert "\n|---|---|\n" + "\n".join(lines) + "\n\n" in docs.read_text(encoding="utf-8")


def test_the_stored_form_of_rotated4_never_changes() -> None:
    packed = bytes.fromhex("81405d3b298a6064bde0")
    expected = [
        [0.9020249, -1.9487511, 3.3538535, -4.0306621, 4.7552133],
        [0.0100156, 0.0001392, 0.0000667, 0.0001392, 0.0000663],
    ]
    np.testing.assert_allclose(ROTATED4.unpack(packed, (2, 5)), expected, atol=1e-6)
