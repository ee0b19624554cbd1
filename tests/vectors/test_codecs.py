from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given

from refrag_components.exceptions import InvalidVectorsError
from refrag_components.vectors.codecs import CODECS, codec_named, codec_numbered
from refrag_components.vectors.rotation import rotate
from tests.vectors.contract import CodecContract, arrays, normal

# Half the widest gap between two of the 16 values, as a fraction of the largest of them.
WIDEST = (2.73259 - 2.069017) / 2 / 2.73259

ROTATED4 = CODECS["rotated4"]


def lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


def round_trip(vectors: np.ndarray) -> np.ndarray:
    return ROTATED4.unpack(ROTATED4.pack(vectors), vectors.shape)


class TestFloat32(CodecContract):
    name = "float32"
    number = 0
    stored = "0000803f00008040000020c100000000"

    def allowed(self, vectors: np.ndarray) -> np.ndarray:
        return np.zeros(len(vectors))


class TestFloat16(CodecContract):
    name = "float16"
    number = 1
    stored = "003c004400c90000"

    def allowed(self, vectors: np.ndarray) -> np.ndarray:
        # Half of the last of 11 bits, and half of the smallest step for values close to 0.
        exact = np.abs(vectors.astype(np.float64))
        return lengths(exact * 2.0**-11 + 2.0**-25)

    def test_a_value_beyond_its_range_is_refused(self) -> None:
        with pytest.raises(InvalidVectorsError, match="65504"):
            self.codec.pack(np.array([[1, 70000]], np.float32))


class TestInt8(CodecContract):
    name = "int8"
    number = 2
    stored = "0302013d8442a13d207f8100"

    def allowed(self, vectors: np.ndarray) -> np.ndarray:
        steps = np.abs(vectors).max(axis=1, initial=0).astype(np.float64) / 127
        return (steps * 0.501 + 1e-42) * np.sqrt(vectors.shape[1])


class TestRotated4(CodecContract):
    name = "rotated4"
    number = 3
    stored = "bc3f6a405ff7"

    def allowed(self, vectors: np.ndarray) -> np.ndarray:
        gaps = np.abs(rotate(vectors)).max(axis=1, initial=0) * WIDEST * np.sqrt(vectors.shape[1])
        return np.minimum(gaps, lengths(vectors)) * 1.005 + 1e-38


def test_every_codec_keeps_the_contract() -> None:
    assert {contract.name for contract in CodecContract.__subclasses__()} == {*CODECS}
    assert len({codec.number for codec in CODECS.values()}) == len(CODECS)


def test_an_unknown_codec_is_refused_with_the_list_of_codecs() -> None:
    with pytest.raises(ValueError, match=f"'int4'.*{', '.join(CODECS)}"):
        codec_named("int4")
    with pytest.raises(ValueError, match="codec number 9"):
        codec_numbered(9)


def test_the_documentation_lists_all_codecs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "codecs.md"
    lines = [f"| `{codec.name}` | {codec.summary} |" for codec in CODECS.values()]
    assert "\n|---|---|\n" + "\n".join(lines) + "\n\n" in docs.read_text(encoding="utf-8")


@given(arrays())
def test_rotated4_errs_by_half_a_gap_at_most(vectors: np.ndarray) -> None:
    errors = lengths(round_trip(vectors) - vectors.astype(np.float64))
    assert (errors <= TestRotated4().allowed(vectors)).all()


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


def test_rotated4_packs_what_it_decoded_into_the_same_bytes() -> None:
    packed = ROTATED4.pack(normal(100, 384))
    assert ROTATED4.pack(ROTATED4.unpack(packed, (100, 384))) == packed


@pytest.mark.parametrize("scale", [b"\x80\x7f", b"\xc0\x7f"])
def test_a_scale_that_is_not_a_number_is_refused(scale: bytes) -> None:
    packed = ROTATED4.pack(normal(1, 8))
    with pytest.raises(ValueError, match="scale"):
        ROTATED4.unpack(scale + packed[2:], (1, 8))


def test_the_stored_form_of_rotated4_never_changes() -> None:
    packed = bytes.fromhex("81405d3b298a6064bde0")
    expected = [
        [0.9020249, -1.9487511, 3.3538535, -4.0306621, 4.7552133],
        [0.0100156, 0.0001392, 0.0000667, 0.0001392, 0.0000663],
    ]
    np.testing.assert_allclose(ROTATED4.unpack(packed, (2, 5)), expected, atol=1e-6)
