"""How the chunk vectors of a passage become bytes."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import numpy as np

from refrag_components.exceptions import InvalidVectorsError
from refrag_components.subclasses import concrete_classes
from refrag_components.vectors.rotation import rotate, unrotate

__all__ = [
    "CODECS",
    "GAUSSIAN_LEVELS",
    "Codec",
    "VectorCodec",
    "codec_named",
    "codec_numbered",
    "single",
]

#: Name of a codec, one of ``CODECS``, as it is written in options, URLs and the files of an index.
Codec: TypeAlias = str

#: Packed vectors; read as they lie.
Packed = bytes | memoryview

# Coordinates of a rotated vector are nearly normally distributed. These are the 16 values with the
# least error on a standard normal distribution (Lloyd-Max). On chunk vectors of the bundled
# checkpoint the error of even steps, with the best step for each vector, was a tenth larger; see
# docs/codecs.md.
_UPPER = (0.128395, 0.388048, 0.656759, 0.94234, 1.256231, 1.618046, 2.069017, 2.73259)
GAUSSIAN_LEVELS = (*(-level for level in reversed(_UPPER)), *_UPPER)
_LEVELS = np.array(GAUSSIAN_LEVELS)
_BORDERS = (_LEVELS[1:] + _LEVELS[:-1]) / 2
_NEAR_RMS = (0.94, 1.0, 1.06)
_LARGEST_SCALE = 2.0**127 * (2 - 2**-7)  # that 16 bits can hold


class VectorCodec(ABC):
    """Turns vectors into bytes and back.

    Attributes:
        name: Name by which it is chosen.
        number: Identifies it in serialised vectors, 0 to 255; never changes.
        summary: What it does, in one line.
        dtype: Type of the values where they are stored one by one, which a database
            may do natively; None if vectors are packed otherwise.
    """

    name: ClassVar[Codec]
    number: ClassVar[int]
    summary: ClassVar[str]
    dtype: ClassVar[str | None] = None

    @abstractmethod
    def vector_bytes(self, width: int) -> int:
        """Bytes per vector of ``width`` values."""

    @abstractmethod
    def pack(self, vectors: np.ndarray) -> bytes:
        """Packs vectors; equal vectors always give equal bytes.

        Args:
            vectors: Shape (n, width), float32, finite.

        Raises:
            InvalidVectorsError: If a value exceeds float16's range (65504) under "float16".
        """

    def unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        """Reads what ``pack`` wrote.

        Args:
            data: The bytes, all of them.
            shape: (n, width) of the vectors, width at least 1.

        Returns:
            Floating point values of that shape; a view of ``data`` only in half precision.

        Raises:
            ValueError: If there are too few or too many bytes, or they are not packed vectors.
        """
        n, width = shape
        if len(data) != n * self.vector_bytes(width):
            needed = n * self.vector_bytes(width)
            msg = f"{n} {self.name} vectors of width {width} take {needed} bytes, got {len(data)}"
            raise ValueError(msg)
        return self._unpack(data, shape)

    @abstractmethod
    def _unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        """Reads bytes of the right length."""


class _Float32(VectorCodec):
    name = "float32"
    number = 0
    summary = "nothing; exact"
    dtype = "float32"

    def vector_bytes(self, width: int) -> int:
        return 4 * width

    def pack(self, vectors: np.ndarray) -> bytes:
        return vectors.astype("<f4").tobytes()

    def _unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        return np.frombuffer(data, dtype="<f4").reshape(shape).copy()


class _Float16(VectorCodec):
    name = "float16"
    number = 1
    summary = "the default; 11 significant bits"
    dtype = "float16"

    def vector_bytes(self, width: int) -> int:
        return 2 * width

    def pack(self, vectors: np.ndarray) -> bytes:
        with np.errstate(over="ignore"):
            halves = vectors.astype("<f2")
        if not np.isfinite(halves).all():
            msg = "vectors exceed float16's range of 65504; store them as float32 or int8"
            raise InvalidVectorsError(msg)
        return halves.tobytes()

    def _unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        return np.frombuffer(data, dtype="<f2").reshape(shape)


class _Int8(VectorCodec):
    name = "int8"
    number = 2
    summary = "255 even steps between plus and minus the vector's largest absolute value"

    def vector_bytes(self, width: int) -> int:
        return 4 + width

    def pack(self, vectors: np.ndarray) -> bytes:
        # One step below peak / 127, so that 127 steps never exceed the peak and overflow.
        scales = np.nextafter(np.abs(vectors).max(axis=1) / np.float32(127), np.float32(0))
        steps = vectors / np.where(scales > 0, scales, np.inf)[:, None]
        codes = np.rint(steps).clip(-127, 127).astype("i1")
        return scales.astype("<f4").tobytes() + codes.tobytes()

    def _unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        scales = np.frombuffer(data[: 4 * shape[0]], dtype="<f4")
        steps = np.frombuffer(data[4 * shape[0] :], dtype="i1").reshape(shape)
        return steps * scales[:, None]


class _Rotated4(VectorCodec):
    """Scales, shape (n,), 2 bytes each; then two coordinates per byte, rows padded to a byte."""

    name = "rotated4"
    number = 3
    summary = "rotates the vector, then rounds every coordinate to one of 16 values"

    def vector_bytes(self, width: int) -> int:
        return 2 + -(-width // 2)

    def pack(self, vectors: np.ndarray) -> bytes:
        rows = rotate(vectors)
        codes, scales = _nearest_levels(rows)
        if rows.shape[1] % 2:
            codes = np.pad(codes, ((0, 0), (0, 1)))
        return scales.tobytes() + (codes[:, ::2] << 4 | codes[:, 1::2]).tobytes()

    def _unpack(self, data: Packed, shape: tuple[int, int]) -> np.ndarray:
        n, width = shape
        halves = np.frombuffer(data[: 2 * n], dtype="<u2")
        scales = _from_16_bits(halves)
        if not np.isfinite(scales).all():
            raise ValueError("the scale of a vector is NaN or infinite")
        pairs = np.frombuffer(data[2 * n :], dtype=np.uint8).reshape(n, -(-width // 2))
        if not n:  # whatever the width: a forged one must not cost memory
            return np.zeros(shape, dtype=np.float32)
        codes = np.stack([pairs >> 4, pairs & 15], axis=2).reshape(n, -1)[:, :width]
        values = unrotate(_LEVELS[codes]) * scales[:, None]
        largest = np.finfo(np.float32).max
        return values.clip(-largest, largest).astype(np.float32)


def _to_16_bits(scales: np.ndarray) -> np.ndarray:
    """The upper half of a float32: its whole range, and enough precision for 16 levels."""
    bits = scales.clip(max=_LARGEST_SCALE).astype("<f4").view("<u4") + np.uint32(0x8000)
    return (bits >> 16).astype("<u2")


def _from_16_bits(halves: np.ndarray) -> np.ndarray:
    return (halves.astype("<u4") << 16).view("<f4").astype(np.float64)


def _nearest_levels(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the level at each coordinate, (n, width) uint8, and each row's scale, (n,) uint16.

    A row is its levels times its scale. The scales that are tried are some near the row's root mean
    square, and those that put its largest coordinate exactly on a level: for a row that was decoded
    before, one of these is its earlier scale. Errors are compared with scales rounded to 16 bits,
    so a row that was decoded before gets the same levels and scale, and loses nothing more.
    """
    peaks = np.abs(rows).max(axis=1)
    divisors = np.where(peaks > 0, peaks, 1)
    units = rows / divisors[:, None]  # squares of huge values overflow
    rms = np.sqrt((units**2).mean(axis=1))
    candidates = [np.full(len(rows), 1 / level) for level in reversed(_UPPER)]
    candidates += [np.where(rms > 0, rms, 1) * factor for factor in _NEAR_RMS]
    codes = np.zeros(rows.shape, dtype=np.uint8)
    scales = np.zeros(len(rows), dtype="<u2")
    gains = np.full(len(rows), -np.inf)  # reduction of the squared error
    for candidate in candidates:
        chosen = np.searchsorted(_BORDERS, units / candidate[:, None]).astype(np.uint8)
        levels = _LEVELS[chosen]
        squares = np.einsum("ij,ij->i", levels, levels)
        products = np.einsum("ij,ij->i", units, levels)
        halves = _to_16_bits(products / squares * peaks)  # least squares
        rounded = _from_16_bits(halves) / divisors
        gain = rounded * (2 * products - rounded * squares)
        better = gain > gains
        codes[better], gains[better], scales[better] = chosen[better], gain[better], halves[better]
    return codes, scales


def single(halves: np.ndarray) -> np.ndarray:
    """Vectors in float16, shape (n, width), as float32."""
    torch = sys.modules.get("torch")
    if torch is None:
        return halves.astype(np.float32)
    # NumPy converts halves one by one. Not worth loading torch, but whoever decodes has it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about arrays that are read only
        given = torch.from_numpy(halves)
    values: np.ndarray = given.float().numpy()
    return values


#: All codecs by name, as they stand above: from the most bytes to the fewest.
CODECS: Mapping[Codec, VectorCodec] = {
    codec.name: codec() for codec in concrete_classes(VectorCodec)
}

_BY_NUMBER = {codec.number: codec for codec in CODECS.values()}


def codec_named(name: str) -> VectorCodec:
    """The codec with a name.

    Raises:
        ValueError: If there is none; the message lists the codecs.
    """
    for codec in CODECS.values():
        if codec.name == name:
            return codec
    raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(CODECS)}")


def codec_numbered(number: int) -> VectorCodec:
    """The codec with a number, as serialised vectors store it.

    Raises:
        ValueError: If there is none.
    """
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise ValueError(f"codec number {number} is unknown") from None
