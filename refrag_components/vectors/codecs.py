"""How the chunk vectors of a passage become bytes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from refrag_components.exceptions import InvalidVectorsError
from refrag_components.vectors.rotation import rotate, unrotate

__all__ = ["CODECS", "GAUSSIAN_LEVELS", "Codec", "pack", "unpack"]

Codec = Literal["float32", "float16", "int8", "rotated4"]

# The place of a codec is its number in the stored form.
CODECS: tuple[Codec, ...] = ("float32", "float16", "int8", "rotated4")
"""How vectors can be stored: 4, 2, 1 or 0.5 bytes a value."""

# Coordinates of a rotated vector are close to normally distributed. These are the 16 values that
# lose least of a standard normal distribution (Lloyd-Max). Even steps erred a tenth more on chunk
# vectors of the bundled checkpoint, with the best width for each vector; see docs/codecs.md.
_UPPER = (0.128395, 0.388048, 0.656759, 0.94234, 1.256231, 1.618046, 2.069017, 2.73259)
GAUSSIAN_LEVELS = (*(-level for level in reversed(_UPPER)), *_UPPER)
_LEVELS = np.array(GAUSSIAN_LEVELS)
_BORDERS = (_LEVELS[1:] + _LEVELS[:-1]) / 2
_NEAR_RMS = (0.94, 1.0, 1.06)
_LARGEST_SCALE = 2.0**127 * (2 - 2**-7)  # of those with 16 bits


def pack(vectors: np.ndarray, codec: Codec) -> bytes:
    """Packs vectors.

    Args:
        vectors: Shape (n, width), float32, finite.
        codec: "float32" is exact, "float16" keeps 11 significant bits, "int8" rounds each vector
            to 255 even steps between plus and minus its largest absolute value, "rotated4"
            rotates it and rounds each coordinate to one of 16 values.

    Raises:
        InvalidVectorsError: If a value exceeds float16's range (65504) under "float16".
    """
    if codec == "float32":
        return vectors.astype("<f4").tobytes()
    if codec == "float16":
        return _pack_float16(vectors)
    if codec == "int8":
        return _pack_int8(vectors)
    return _pack_rotated4(vectors)


def unpack(data: bytes, codec: Codec, shape: tuple[int, int]) -> np.ndarray:
    """Reads what ``pack`` wrote.

    Args:
        data: The bytes, all of them.
        codec: The codec that made them.
        shape: (n, width) of the vectors, width at least 1.

    Raises:
        ValueError: If the bytes are too few or too many, or no packed vectors.
    """
    if codec == "int8":
        return _unpack_int8(data, shape)
    if codec == "rotated4":
        return _unpack_rotated4(data, shape)
    return np.frombuffer(data, dtype="<f4" if codec == "float32" else "<f2").reshape(shape)


def _pack_float16(vectors: np.ndarray) -> bytes:
    with np.errstate(over="ignore"):
        halves = vectors.astype("<f2")
    if not np.isfinite(halves).all():
        msg = "vectors exceed float16's range of 65504; store them as float32 or int8"
        raise InvalidVectorsError(msg)
    return halves.tobytes()


def _pack_int8(vectors: np.ndarray) -> bytes:
    # One step below peak / 127, so that 127 steps never exceed the peak and overflow.
    scales = np.nextafter(np.abs(vectors).max(axis=1) / np.float32(127), np.float32(0))
    steps = vectors / np.where(scales > 0, scales, np.inf)[:, None]
    return scales.astype("<f4").tobytes() + np.rint(steps).clip(-127, 127).astype("i1").tobytes()


def _unpack_int8(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    scales = np.frombuffer(data[: 4 * shape[0]], dtype="<f4")
    steps = np.frombuffer(data[4 * shape[0] :], dtype="i1").reshape(shape)
    return steps * scales[:, None]


def _pack_rotated4(vectors: np.ndarray) -> bytes:
    """Scales, shape (n,), 2 bytes each; then two coordinates a byte, each row padded to a byte."""
    rows = rotate(vectors)
    codes, scales = _nearest_levels(rows)
    if rows.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return scales.tobytes() + (codes[:, ::2] << 4 | codes[:, 1::2]).tobytes()


def _to_16_bits(scales: np.ndarray) -> np.ndarray:
    """The upper half of a float32: all of its range, and precision enough beside 16 levels."""
    bits = scales.clip(max=_LARGEST_SCALE).astype("<f4").view("<u4") + np.uint32(0x8000)
    return (bits >> 16).astype("<u2")


def _from_16_bits(halves: np.ndarray) -> np.ndarray:
    return (halves.astype("<u4") << 16).view("<f4").astype(np.float64)


def _nearest_levels(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the level at each coordinate, (n, width) uint8, and each row's scale, (n,) uint16.

    A row is its levels times its scale. Tried are scales near the row's root mean square, and
    those that put its largest coordinate exactly on a level: one of them is the scale that a row
    which was decoded before had then. The best one is told with its scale rounded to 16 bits: a
    row that was decoded before gets the same levels and scale, and loses nothing more.
    """
    peaks = np.abs(rows).max(axis=1)
    divisors = np.where(peaks > 0, peaks, 1)
    units = rows / divisors[:, None]  # squares of huge values overflow
    rms = np.sqrt((units**2).mean(axis=1))
    tried = [np.full(len(rows), 1 / level) for level in reversed(_UPPER)]
    tried += [np.where(rms > 0, rms, 1) * factor for factor in _NEAR_RMS]
    codes = np.zeros(rows.shape, dtype=np.uint8)
    scales = np.zeros(len(rows), dtype="<u2")
    gains = np.full(len(rows), -np.inf)  # what is explained of a row's squared length
    for own_scales in tried:
        own = np.searchsorted(_BORDERS, units / own_scales[:, None]).astype(np.uint8)
        levels = _LEVELS[own]
        squares = np.einsum("ij,ij->i", levels, levels)
        products = np.einsum("ij,ij->i", units, levels)
        halves = _to_16_bits(products / squares * peaks)  # least squares
        rounded = _from_16_bits(halves) / divisors
        own_gains = rounded * (2 * products - rounded * squares)
        better = own_gains > gains
        codes[better], gains[better], scales[better] = (
            own[better],
            own_gains[better],
            halves[better],
        )
    return codes, scales


def _unpack_rotated4(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    n, width = shape
    halves = np.frombuffer(data[: 2 * n], dtype="<u2")
    scales = _from_16_bits(halves)
    if not np.isfinite(scales).all():
        raise ValueError("a scale is NaN or infinite")
    pairs = np.frombuffer(data[2 * n :], dtype=np.uint8).reshape(n, -(-width // 2))
    if not n:  # whatever the width: a forged one must not cost memory
        return np.zeros(shape, dtype=np.float32)
    codes = np.stack([pairs >> 4, pairs & 15], axis=2).reshape(n, -1)[:, :width]
    values = unrotate(_LEVELS[codes]) * scales[:, None]
    largest = np.finfo(np.float32).max
    return values.clip(-largest, largest).astype(np.float32)
