"""What every codec must do, as tests to inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refrag_components.vectors import CODECS, ChunkVectors, Codec, VectorCodec
from refrag_components.vectors.codecs import codec_numbered

#: What every stored form in a contract was made of.
STORED = np.array([[1, 4], [-10, 0]], np.float32)


def normal(n: int, width: int, seed: int = 0) -> np.ndarray:
    """Normal noise, shape (n, width), float32."""
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


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


# The tests are the same functions for every codec; the codec alone differs.
inherited = settings(suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])


class CodecContract(ABC):
    """Inherit it, name the codec and define its largest error."""

    name: ClassVar[Codec]
    number: ClassVar[int]
    stored: ClassVar[str]  # STORED in hexadecimal

    @property
    def codec(self) -> VectorCodec:
        return CODECS[self.name]

    @abstractmethod
    def allowed(self, vectors: np.ndarray) -> np.ndarray:
        """The largest error of each row, by Euclidean length, shape (n,), float64."""

    def read(self, vectors: np.ndarray) -> np.ndarray:
        """What a store gives back."""
        return np.array(
            self.codec.unpack(self.codec.pack(vectors), vectors.shape), dtype=np.float32
        )

    def test_its_name_and_number_find_it(self) -> None:
        assert self.codec.name == self.name
        assert self.codec.number == self.number
        assert codec_numbered(self.number) is self.codec

    def test_the_stored_form_never_changes(self) -> None:
        assert self.codec.pack(STORED).hex() == self.stored
        read = self.codec.unpack(bytes.fromhex(self.stored), STORED.shape)
        assert (np.linalg.norm(read - STORED, axis=1) <= self.allowed(STORED)).all()

    @inherited
    @given(vectors=arrays(largest=65504.0))
    def test_errors_stay_in_bounds(self, vectors: np.ndarray) -> None:
        read = self.read(vectors)
        assert read.shape == vectors.shape
        errors = np.linalg.norm(read - vectors.astype(np.float64), axis=1)
        assert (errors <= self.allowed(vectors)).all()

    @inherited
    @given(vectors=arrays(largest=65504.0))
    def test_reading_and_storing_again_loses_no_more(self, vectors: np.ndarray) -> None:
        once = self.read(vectors)
        most = np.abs(once).max(initial=1e-30)
        np.testing.assert_allclose(self.read(once), once, rtol=1e-5, atol=1e-6 * most)

    @inherited
    @given(vectors=arrays(largest=65504.0))
    def test_every_vector_takes_as_many_bytes_as_said(self, vectors: np.ndarray) -> None:
        n, width = vectors.shape
        packed = self.codec.pack(vectors)
        assert len(packed) == n * self.codec.vector_bytes(width)
        assert packed == self.codec.pack(vectors.copy())

    @inherited
    @given(vectors=arrays(largest=65504.0))
    def test_bytes_too_few_or_too_many_are_refused(self, vectors: np.ndarray) -> None:
        packed = self.codec.pack(vectors)
        for wrong in (packed + b"\0", packed[:-1], packed[: len(packed) // 2]):
            if len(wrong) != len(packed):
                with pytest.raises(ValueError, match="bytes"):
                    self.codec.unpack(wrong, vectors.shape)

    def test_a_vector_does_not_depend_on_its_neighbours(self) -> None:
        vectors = normal(200, 100)
        np.testing.assert_array_equal(self.read(vectors[::-1])[::-1], self.read(vectors))

    def test_no_vectors_of_a_forged_width_cost_no_memory(self) -> None:
        assert self.codec.unpack(b"", (0, 2**32 - 1)).shape == (0, 2**32 - 1)

    def test_zeros_stay_zeros(self) -> None:
        np.testing.assert_array_equal(self.read(np.zeros((3, 7), np.float32)), 0)

    @pytest.mark.parametrize("width", [64, 100, 384, 768, 1000])
    def test_directions_are_kept(self, width: int) -> None:
        for vectors in (normal(200, width), np.eye(width, dtype=np.float32)):
            read = self.read(vectors)
            lengths = np.linalg.norm(read, axis=1) * np.linalg.norm(vectors, axis=1)
            assert ((read * vectors).sum(axis=1) / lengths).mean() > 0.99

    def test_chunk_vectors_are_written_and_read_by_it(self) -> None:
        vectors = normal(3, 6)
        value = ChunkVectors(vectors, np.arange(20), 8, "abc123")
        read = ChunkVectors.from_bytes(value.to_bytes(self.name))
        np.testing.assert_array_equal(read.vectors, self.read(vectors))
        np.testing.assert_array_equal(read.token_ids, value.token_ids)
