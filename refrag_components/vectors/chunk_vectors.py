"""Chunk vectors of one passage, which are computed once, stored and looked up."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.cached import cached_property
from refrag_components.exceptions import CorruptVectorsError, InvalidVectorsError
from refrag_components.vectors.codecs import Codec, codec_named, codec_numbered, single

__all__ = ["ChunkVectors", "padded_token_ids", "passage_key", "unit_rows"]

# Serialised form, little-endian: header, fingerprint, token ids, vectors, checksum.
_MAGIC = b"RFCV"
_VERSION = 2
_WITH_BLAKE2B = 1  # the version whose checksum is one that takes longer than all else
_HEADER = struct.Struct("<4s4B3I")  # magic, version, codec, token bytes, fingerprint length, sizes
_BLAKE2B_BYTES = 16
_CRC = struct.Struct("<I")
_TOKEN_TYPES = {2: "<u2", 4: "<i4"}

_INFINITE = np.uint16(0x7C00)  # the exponent of NaN and infinity in half precision


@dataclass(frozen=True, eq=False, repr=False)
class ChunkVectors:
    """The chunk vectors of one passage and the decoder tokens that they represent.

    All arrays are private read-only copies, so an object can be shared by threads and caches.
    Vectors that come in half precision, as encoders and stores have them, stay so (``halves``):
    half the memory, and nothing is converted on their way to a device.

    Attributes:
        vectors: Encoder outputs, shape (n_chunks, d_enc), float32, finite; made at each access if
            there are ``halves``.
        token_ids: Decoder token ids of the passage, shape (n_tokens,), int32, not negative.
        chunk_size: Tokens per chunk (k); n_chunks == ceil(n_tokens / k).
        fingerprint: Identifies the encoder, chunk size and tokenizer that made them; 1 to 255 ASCII
            characters.

    Raises:
        InvalidVectorsError: If values are NaN or infinite, or if shapes or types are wrong.
    """

    vectors: np.ndarray
    token_ids: np.ndarray
    chunk_size: int
    fingerprint: str

    def __post_init__(self) -> None:
        given = self.__dict__.pop("vectors")
        # Made here, and nobody else's: what came in may still change.
        self._fill(_vectors_of(given).copy(), _token_ids_of(self.token_ids).copy())

    if not TYPE_CHECKING:  # else every name would count as one that there is

        def __getattr__(self, name: str) -> np.ndarray:
            """The vectors in float32, if they are kept in half precision."""
            if name == "vectors" and (halves := self.halves) is not None:
                vectors = single(halves)
                vectors.flags.writeable = False
                return vectors
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def halves(self) -> np.ndarray | None:
        """The vectors in float16, shape (n_chunks, d_enc), if that is how they came; else None."""
        return self.__dict__.get("_halves")

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite; checked when made, and again if since altered."""
        return not self._kept.flags.writeable or _finite(self._kept)

    @property
    def _kept(self) -> np.ndarray:
        """The vectors as they are kept."""
        kept: np.ndarray | None = self.halves
        return self.vectors if kept is None else kept

    def _fill(self, vectors: np.ndarray, token_ids: np.ndarray) -> None:
        """Takes over both arrays and checks that all fits."""
        if not _finite(vectors):
            raise InvalidVectorsError("vectors contain NaN or infinite values")
        name = "_halves" if vectors.dtype == np.float16 else "vectors"
        for key, array in ((name, vectors), ("token_ids", token_ids)):
            array.flags.writeable = False
            object.__setattr__(self, key, array)
        if not 1 <= self.chunk_size < 2**32:
            raise InvalidVectorsError(f"chunk_size must be at least 1, got {self.chunk_size}")
        if not (self.fingerprint.isascii() and 1 <= len(self.fingerprint) <= 255):
            msg = f"fingerprint must be 1 to 255 ASCII characters, got {self.fingerprint!r}"
            raise InvalidVectorsError(msg)
        self.__dict__["n_chunks"] = len(vectors)
        needed = -(-self.n_tokens // self.chunk_size)
        if self.n_chunks != needed:
            msg = (
                f"{self.n_tokens} tokens in chunks of {self.chunk_size} need {needed} vectors, "
                f"got {self.n_chunks}"
            )
            raise InvalidVectorsError(msg)

    @cached_property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return len(self._kept)

    @property
    def n_tokens(self) -> int:
        """Number of decoder tokens."""
        return len(self.token_ids)

    @property
    def width(self) -> int:
        """Values per vector (d_enc)."""
        return int(self._kept.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes that both arrays take in memory."""
        return self._kept.nbytes + self.token_ids.nbytes

    @cached_property
    def chunk_lengths(self) -> np.ndarray:
        """Tokens in each chunk, shape (n_chunks,), int32; only the last may be less than k."""
        lengths = np.full(self.n_chunks, self.chunk_size, dtype=np.int32)
        lengths[-1:] -= self.n_chunks * self.chunk_size - self.n_tokens
        lengths.flags.writeable = False
        return lengths

    def chunk_token_ids(self, index: int) -> np.ndarray:
        """Token ids of chunk ``index`` (0 to n_chunks - 1), shape (chunk length,), int32."""
        if not 0 <= index < self.n_chunks:
            msg = f"the passage has {self.n_chunks} chunks, there is no chunk {index}"
            raise IndexError(msg)
        return self.token_ids[index * self.chunk_size : (index + 1) * self.chunk_size]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChunkVectors):
            return NotImplemented
        return (
            self.chunk_size == other.chunk_size
            and self.fingerprint == other.fingerprint
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.vectors, other.vectors)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"ChunkVectors(n_chunks={self.n_chunks}, n_tokens={self.n_tokens}, "
            f"width={self.width}, chunk_size={self.chunk_size}, fingerprint={self.fingerprint!r})"
        )

    def to_bytes(self, codec: Codec = "float16") -> bytes:
        """Serialises the object; a checksum at the end covers every byte.

        Args:
            codec: One of ``refrag_components.vectors.CODECS``, which say what each does.

        Raises:
            InvalidVectorsError: If a value exceeds float16's range (65504) under "float16".
            ValueError: If there is no such codec.
        """
        chosen = codec_named(codec)
        token_bytes = 2 if self.n_tokens == 0 or self.token_ids.max() < 2**16 else 4
        sizes = (self.chunk_size, self.n_tokens, self.width)
        body = b"".join(
            (
                _HEADER.pack(
                    _MAGIC,
                    _VERSION,
                    chosen.number,
                    token_bytes,
                    len(self.fingerprint),
                    *sizes,
                ),
                self.fingerprint.encode("ascii"),
                self.token_ids.astype(_TOKEN_TYPES[token_bytes]).tobytes(),
                chosen.pack(self._kept if chosen.name == "float16" else self.vectors),
            )
        )
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> ChunkVectors:
        """Reads what ``to_bytes`` wrote, with this version of the library or an earlier one.

        The checksum finds damage. Whoever alters bytes on purpose can make it fit, so what they say
        is checked by those who use them.

        Raises:
            CorruptVectorsError: If the bytes are truncated, altered or not chunk vectors.
        """
        data = memoryview(data)
        if data[:4] != _MAGIC:
            raise CorruptVectorsError("these bytes are not chunk vectors; encode the passage again")
        body = _sound(data)
        if body is None:
            msg = "chunk vectors are truncated or altered; encode the passage again"
            raise CorruptVectorsError(msg)
        try:
            return cls._parse(body)
        except (ArithmeticError, LookupError, ValueError) as error:
            msg = f"chunk vectors do not match their header: {error}; encode the passage again"
            raise CorruptVectorsError(msg) from error

    @classmethod
    def _parse(cls, body: memoryview) -> ChunkVectors:
        header = _HEADER.unpack_from(body)
        _, version, codec, token_bytes, fingerprint_length, chunk_size, n_tokens, width = header
        if version not in (_WITH_BLAKE2B, _VERSION):
            raise ValueError(f"they have format version {version}, this library reads {_VERSION}")
        tokens_at = _HEADER.size + fingerprint_length
        vectors_at = tokens_at + n_tokens * token_bytes
        shape = (-(-n_tokens // chunk_size), width)
        vectors = codec_numbered(codec).unpack(body[vectors_at:], shape)
        token_ids = np.frombuffer(body[tokens_at:vectors_at], dtype=_TOKEN_TYPES[token_bytes])
        found = cls.__new__(cls)
        object.__setattr__(found, "chunk_size", chunk_size)
        object.__setattr__(found, "fingerprint", str(body[_HEADER.size : tokens_at], "ascii"))
        if vectors.dtype.kind == "f" and vectors.dtype.itemsize == 2:
            # Bytes never change and can be shared; whatever else came in may.
            shared = type(body.obj) is bytes and vectors.flags.aligned
            vectors = vectors.astype(np.float16, copy=not shared)
        own_ids = _token_ids_of(token_ids)
        found._fill(_vectors_of(vectors), own_ids if token_bytes == 2 else own_ids.copy())
        return found


def passage_key(text: str, fingerprint: str) -> str:
    """The key under which a passage's chunk vectors are stored: 32 hexadecimal characters.

    Args:
        text: The passage, exactly as it was encoded.
        fingerprint: The model's fingerprint, so that different models never share a key.
    """
    data = f"{fingerprint}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def padded_token_ids(passages: Sequence[ChunkVectors]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all chunks of the passages, in order, padded to the largest k.

    Args:
        passages: At least one.

    Returns:
        Token ids, padded with 0, shape (total chunks, k), int64; and a mask, True at tokens, same
        shape.
    """
    k = max(passage.chunk_size for passage in passages)
    lengths = np.concatenate([passage.chunk_lengths for passage in passages])
    used = np.arange(k) < lengths[:, None]
    ids = np.zeros(used.shape, dtype=np.int64)
    ids[used] = np.concatenate([passage.token_ids for passage in passages])
    return ids, used


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to length 1, shape (n, d), float32; a row of zeros is left as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _vectors_of(values: np.ndarray) -> np.ndarray:
    """Values as vectors in float16 or float32; a copy only if they are something else."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind != "f":
        msg = (
            "vectors must be floating point of shape (n_chunks, width), "
            f"got {values.dtype} of shape {values.shape}"
        )
        raise InvalidVectorsError(msg)
    if values.dtype.itemsize <= 4:
        kept = np.float16 if values.dtype.itemsize == 2 else np.float32
        return np.asarray(values, dtype=kept, order="C")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return np.asarray(values, dtype=np.float32, order="C")


def _finite(vectors: np.ndarray) -> bool:
    if vectors.dtype == np.float16:  # whose arithmetic NumPy does one by one
        return not vectors.size or bool((vectors.view(np.uint16) & _INFINITE).max() < _INFINITE)
    return bool(np.isfinite(vectors).all())


def _token_ids_of(values: np.ndarray) -> np.ndarray:
    """Values as token ids in int32; a copy only if they are something else."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and len(values)):
        msg = (
            f"token_ids must be integers of shape (n_tokens,), got {values.dtype} "
            f"of shape {values.shape}"
        )
        raise InvalidVectorsError(msg)
    fits = values.dtype == np.uint16 or not len(values)
    if not fits and not (values.min() >= 0 and values.max() < 2**31):
        raise InvalidVectorsError("token_ids must be from 0 to 2**31 - 1")
    return np.asarray(values, dtype=np.int32, order="C")


def _sound(data: memoryview) -> memoryview | None:
    """What the checksum covers; None if it does not fit."""
    if data[4:5] == bytes([_WITH_BLAKE2B]):
        body, kept = data[:-_BLAKE2B_BYTES], data[-_BLAKE2B_BYTES:]
        fits = hashlib.blake2b(body, digest_size=_BLAKE2B_BYTES).digest() == kept
    else:
        body, kept = data[: -_CRC.size], data[-_CRC.size :]
        fits = _CRC.pack(zlib.crc32(body)) == kept
    return body if fits and len(body) >= _HEADER.size else None
