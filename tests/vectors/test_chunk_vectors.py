from __future__ import annotations

import copy
import hashlib
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refrag_components.exceptions import CorruptVectorsError, InvalidVectorsError
from refrag_components.vectors import CODECS, ChunkVectors, Codec, passage_key


def make(n_tokens: int = 20, chunk_size: int = 8, width: int = 6, seed: int = 0) -> ChunkVectors:
    generator = np.random.default_rng(seed)
    n_chunks = -(-n_tokens // chunk_size)
    return ChunkVectors(
        vectors=generator.standard_normal((n_chunks, width)).astype(np.float32),
        token_ids=generator.integers(0, 50_000, n_tokens),
        chunk_size=chunk_size,
        fingerprint="abc123",
    )


@st.composite
def values(draw: st.DrawFn, largest: float = 3.4028234663852886e38) -> ChunkVectors:
    n_tokens = draw(st.integers(0, 40))
    chunk_size = draw(st.integers(1, 20))
    shape = (-(-n_tokens // chunk_size), draw(st.integers(1, 8)))
    floats = st.floats(-largest, largest, width=32)
    return ChunkVectors(
        vectors=draw(hnp.arrays(np.float32, shape, elements=floats)),
        token_ids=draw(hnp.arrays(np.int64, n_tokens, elements=st.integers(0, 2**31 - 1))),
        chunk_size=chunk_size,
        fingerprint=draw(st.text("0123456789abcdef", min_size=1, max_size=64)),
    )


@given(values())
def test_float32_round_trip_is_exact(value: ChunkVectors) -> None:
    assert ChunkVectors.from_bytes(value.to_bytes("float32")) == value


@given(values(largest=65504.0))
def test_float16_round_trip_rounds_once(value: ChunkVectors) -> None:
    read = ChunkVectors.from_bytes(value.to_bytes("float16"))
    np.testing.assert_array_equal(read.vectors, value.vectors.astype(np.float16))
    np.testing.assert_array_equal(read.token_ids, value.token_ids)
    assert ChunkVectors.from_bytes(read.to_bytes("float16")) == read


@given(values())
def test_int8_round_trip_errs_by_half_a_step_at_most(value: ChunkVectors) -> None:
    read = ChunkVectors.from_bytes(value.to_bytes("int8"))
    exact = value.vectors.astype(np.float64)
    steps = np.abs(exact).max(axis=1, keepdims=True) / 127
    assert (np.abs(read.vectors - exact) <= steps * 0.501 + 1e-42).all()
    np.testing.assert_array_equal(read.token_ids, value.token_ids)


@given(values(largest=100.0), st.sampled_from(list(CODECS)))
def test_every_truncation_is_detected(value: ChunkVectors, codec: Codec) -> None:
    data = value.to_bytes(codec)
    for length in range(len(data)):
        with pytest.raises(CorruptVectorsError):
            ChunkVectors.from_bytes(data[:length])


@given(values(largest=100.0), st.sampled_from(list(CODECS)), st.data())
def test_every_altered_byte_is_detected(value: ChunkVectors, codec: Codec, data: st.DataObject):
    altered = bytearray(value.to_bytes(codec))
    position = data.draw(st.integers(0, len(altered) - 1))
    altered[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptVectorsError):
        ChunkVectors.from_bytes(bytes(altered))


@given(st.binary())
def test_foreign_bytes_are_detected(data: bytes) -> None:
    for candidate in (data, b"RFCV" + data):
        with pytest.raises(CorruptVectorsError):
            ChunkVectors.from_bytes(candidate)


def checked(body: bytes | bytearray) -> bytes:
    """With the checksum at its end."""
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def checked_by_hash(body: bytes | bytearray) -> bytes:
    """With the checksum of format version 1."""
    return bytes(body) + hashlib.blake2b(body, digest_size=16).digest()


@pytest.mark.parametrize("codec", ["float32", "float16", "int8", "rotated4"])
def test_bytes_of_the_first_format_version_are_read(codec: Codec) -> None:
    data = make().to_bytes(codec)
    body = bytearray(data[:-4])
    body[4] = 1
    assert ChunkVectors.from_bytes(checked_by_hash(body)) == ChunkVectors.from_bytes(data)
    body[-1] ^= 1
    with pytest.raises(CorruptVectorsError, match="altered"):
        ChunkVectors.from_bytes(checked_by_hash(body[:-1]) + b"x")


@given(
    hnp.arrays(np.uint16, 64)
    .map(lambda bits: bits.view(np.float16))
    .filter(lambda values: bool(np.isfinite(values).all()))
)
def test_halves_are_read_alike_with_and_without_torch(values: np.ndarray) -> None:
    halves = values.reshape(4, 16)
    kept = ChunkVectors(halves, np.arange(4), chunk_size=1, fingerprint="abc")
    with pytest.MonkeyPatch.context() as patch:
        read = [kept.vectors, ChunkVectors.from_bytes(kept.to_bytes()).vectors]
        patch.delitem(sys.modules, "torch")
        read += [kept.vectors, ChunkVectors.from_bytes(kept.to_bytes()).vectors]
    for vectors in read:
        assert vectors.dtype == np.float32
        assert vectors.tobytes() == halves.astype(np.float32).tobytes()


def test_half_precision_is_kept_as_it_is_and_read_as_single() -> None:
    halves = np.array([[0.5, -1.0], [2.0, 0.25]], np.float16)
    kept = ChunkVectors(halves, np.arange(2), chunk_size=1, fingerprint="abc")
    exact = halves.astype(np.float32)
    halves[:] = 0  # the caller's own
    for value in (kept, ChunkVectors.from_bytes(kept.to_bytes()), copy.copy(kept)):
        assert value.halves is not None
        assert value.vectors.dtype == np.float32
        assert value.vectors.tolist() == exact.tolist()
        assert not value.vectors.flags.writeable
        assert not value.halves.flags.writeable
        assert value.nbytes == 2 * 2 * 2 + 2 * 4
        assert value == ChunkVectors(exact, np.arange(2), chunk_size=1, fingerprint="abc")
    assert ChunkVectors(exact, np.arange(2), chunk_size=1, fingerprint="abc").halves is None
    assert pickle.loads(pickle.dumps(kept)) == kept
    for codec in CODECS:
        again = ChunkVectors.from_bytes(kept.to_bytes(codec))
        np.testing.assert_allclose(again.vectors, exact, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_halves_that_are_no_numbers_are_refused(wrong: float) -> None:
    halves = np.ones((2, 3), np.float16)
    kept = ChunkVectors(halves, np.arange(2), chunk_size=1, fingerprint="abc")
    assert kept.finite
    halves[1, 2] = wrong
    with pytest.raises(InvalidVectorsError, match="NaN"):
        ChunkVectors(halves, np.arange(2), chunk_size=1, fingerprint="abc")
    object.__setattr__(kept, "_halves", halves)
    assert not kept.finite


@given(st.binary(min_size=20, max_size=60))
def test_a_header_that_lies_is_detected_even_with_a_right_checksum(noise: bytes) -> None:
    body = b"RFCV" + noise
    with pytest.raises(CorruptVectorsError):
        ChunkVectors.from_bytes(checked(body))
    with pytest.raises(CorruptVectorsError):
        ChunkVectors.from_bytes(checked_by_hash(b"RFCV\1" + noise))


def test_nan_behind_a_right_checksum_is_detected() -> None:
    body = bytearray(make(width=1).to_bytes("float32")[:-4])
    body[-4:] = struct.pack("<f", float("nan"))
    with pytest.raises(CorruptVectorsError, match="NaN"):
        ChunkVectors.from_bytes(checked(body))


@pytest.mark.parametrize("offset", [5, 6, 8, 12, 16])
def test_zero_in_the_header_behind_a_right_checksum_is_detected(offset: int) -> None:
    body = bytearray(make().to_bytes("float16")[:-4])
    body[offset : offset + (1 if offset < 8 else 4)] = bytes(1 if offset < 8 else 4)
    with pytest.raises(CorruptVectorsError):
        ChunkVectors.from_bytes(checked(body))


def test_a_later_format_version_is_named() -> None:
    body = bytearray(make().to_bytes()[:-4])
    body[4] = 9
    with pytest.raises(CorruptVectorsError, match="version 9"):
        ChunkVectors.from_bytes(checked(body))


def test_token_ids_are_stored_in_two_bytes_where_they_fit() -> None:
    small = ChunkVectors(np.zeros((1, 1)), np.array([65535] * 8), 8, "f")
    large = ChunkVectors(np.zeros((1, 1)), np.array([65536] * 8), 8, "f")
    assert len(large.to_bytes()) - len(small.to_bytes()) == 16
    assert ChunkVectors.from_bytes(large.to_bytes()) == large


def test_sizes_by_codec() -> None:
    value = make(n_tokens=256, chunk_size=16, width=384)
    sizes = {codec: len(value.to_bytes(codec)) for codec in CODECS}
    overhead = 20 + 6 + 2 * 256 + 4
    assert sizes == {
        "float32": overhead + 16 * 384 * 4,
        "float16": overhead + 16 * 384 * 2,
        "int8": overhead + 16 * (384 + 4),
        "rotated4": overhead + 16 * (192 + 2),
    }


def test_values_written_before_rotated4_came_are_read() -> None:
    written = (
        "5246435601000206040000000500000002000000616263313233000001000200feff0700"
        "0000803f00008040000020c1000000006a8a91ddbaf53e3920c5b9c647c58d0e",
        "5246435601010206040000000500000002000000616263313233000001000200feff0700"
        "003c004400c90000df6e26fa9cc2b53dfd034bcaaa446cae",
        "5246435601020206040000000500000002000000616263313233000001000200feff0700"
        "0302013d8442a13d207f81006bcc71bd141a4c0d4ded417f22d4a2c3",
    )
    for data in written:
        value = ChunkVectors.from_bytes(bytes.fromhex(data))
        np.testing.assert_allclose(value.vectors, [[1, 4], [-10, 0]], atol=0.02)
        assert value.token_ids.tolist() == [0, 1, 2, 65534, 7]


def test_properties() -> None:
    value = make(n_tokens=20, chunk_size=8, width=6)
    assert (value.n_chunks, value.n_tokens, value.width) == (3, 20, 6)
    assert value.nbytes == 3 * 6 * 4 + 20 * 4
    assert value.chunk_lengths.tolist() == [8, 8, 4]
    np.testing.assert_array_equal(value.chunk_token_ids(2), value.token_ids[16:])
    with pytest.raises(IndexError):
        value.chunk_token_ids(3)
    assert repr(value) == (
        "ChunkVectors(n_chunks=3, n_tokens=20, width=6, chunk_size=8, fingerprint='abc123')"
    )


def test_a_passage_without_tokens() -> None:
    empty = ChunkVectors(np.zeros((0, 4)), np.array([]), 16, "f")
    assert empty.chunk_lengths.tolist() == []
    for codec in CODECS:
        assert ChunkVectors.from_bytes(empty.to_bytes(codec)) == empty


def test_equality_is_by_value() -> None:
    value = make()
    same = ChunkVectors(value.vectors, value.token_ids, value.chunk_size, value.fingerprint)
    assert value == same
    assert value != make(seed=1)
    assert value != "something else"
    with pytest.raises(TypeError):
        hash(value)


def test_arrays_are_private_and_read_only() -> None:
    vectors = np.ones((1, 2), dtype=np.float32)
    value = ChunkVectors(vectors, np.array([1]), 4, "f")
    vectors[:] = 7
    assert (value.vectors == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        value.vectors[0, 0] = 3
    with pytest.raises(ValueError, match="read-only"):
        value.token_ids[0] = 3


@pytest.mark.parametrize(
    ("vectors", "token_ids", "chunk_size", "fingerprint", "message"),
    [
        (np.array([[np.nan]]), [1], 4, "f", "NaN"),
        (np.array([[-np.inf]]), [1], 4, "f", "infinite"),
        (np.array([[1e39]]), [1], 4, "f", "infinite"),
        (np.ones(4), [1], 4, "f", "shape"),
        (np.ones((1, 0)), [1], 4, "f", "shape"),
        (np.ones((1, 2), dtype=int), [1], 4, "f", "floating point"),
        (np.ones((2, 2)), [1], 4, "f", "need 1 vectors, got 2"),
        (np.ones((1, 2)), [1] * 5, 4, "f", "need 2 vectors, got 1"),
        (np.ones((1, 2)), [[1]], 4, "f", "token_ids"),
        (np.ones((1, 2)), [1.5], 4, "f", "token_ids"),
        (np.ones((1, 2)), [-1], 4, "f", "token_ids"),
        (np.ones((1, 2)), [2**31], 4, "f", "token_ids"),
        (np.ones((1, 2)), [1], 0, "f", "chunk_size"),
        (np.ones((1, 2)), [1], 4, "", "fingerprint"),
        (np.ones((1, 2)), [1], 4, "é", "fingerprint"),
        (np.ones((1, 2)), [1], 4, "f" * 256, "fingerprint"),
    ],
)
def test_invalid_values_are_refused(
    vectors: np.ndarray, token_ids: list, chunk_size: int, fingerprint: str, message: str
) -> None:
    with pytest.raises(InvalidVectorsError, match=message):
        ChunkVectors(vectors, np.array(token_ids), chunk_size, fingerprint)


def test_float16_overflow_names_the_other_codecs() -> None:
    value = ChunkVectors(np.array([[70000.0]]), np.array([1]), 4, "f")
    with pytest.raises(InvalidVectorsError, match="float32 or int8"):
        value.to_bytes("float16")


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match=f"'int4'.*{', '.join(CODECS)}"):
        make().to_bytes("int4")  # type: ignore[arg-type]


def test_passage_key() -> None:
    assert len(passage_key("text", "f1")) == 32
    assert passage_key("text", "f1") == passage_key("text", "f1")
    assert len({passage_key(t, f) for t in ("a", "b", "\ud800") for f in ("f1", "f2")}) == 6
