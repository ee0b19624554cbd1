"""A fixed rotation that spreads a vector's energy evenly over its coordinates.

Random signs and Walsh-Hadamard transforms alternate. A transform needs a power of two, so for any
other width two of them overlap: one over the first coordinates, one over the last; nothing is
padded. Only additions, subtractions and one multiplication per step are used, in a fixed order, and
the signs come from SHAKE-256: a vector that was rotated on one machine can be rotated back on any
other, whatever its NumPy and BLAS. A seeded orthogonal matrix would guarantee neither that nor
O(width log width) time.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

__all__ = ["rotate", "unrotate"]

# After one round a coordinate at one end is not yet spread to the other end; after two it is.
_ROUNDS = 2


def rotate(vectors: np.ndarray) -> np.ndarray:
    """Rotates vectors; lengths and angles do not change.

    Args:
        vectors: Shape (n, width), floating point; width at least 1.

    Returns:
        Rotated vectors, shape (n, width), float64.
    """
    rows = vectors.astype(np.float64)
    size = _block(rows)
    for first, last in _signs(rows.shape[1]):
        rows *= first
        rows[:, :size] = _hadamard(rows[:, :size])
        rows *= last
        rows[:, -size:] = _hadamard(rows[:, -size:])
    return rows


def unrotate(vectors: np.ndarray) -> np.ndarray:
    """Undoes ``rotate``.

    Args:
        vectors: Shape (n, width), floating point; width at least 1.

    Returns:
        The vectors before the rotation, up to rounding, shape (n, width), float64.
    """
    rows = vectors.astype(np.float64)
    size = _block(rows)
    for first, last in reversed(_signs(rows.shape[1])):
        rows[:, -size:] = _hadamard(rows[:, -size:])
        rows *= last
        rows[:, :size] = _hadamard(rows[:, :size])
        rows *= first
    return rows


def _block(rows: np.ndarray) -> int:
    """Largest power of two that fits the width."""
    return 1 << (rows.shape[1].bit_length() - 1)


@lru_cache(maxsize=8)
def _signs(width: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Two rows of -1.0 and 1.0 per round, each of shape (width,)."""
    # Part of the stored format: another seed text or order would make stored vectors unreadable.
    stream = hashlib.shake_256(f"rotation of width {width}".encode())
    noise = np.frombuffer(stream.digest(-(-2 * _ROUNDS * width // 8)), dtype=np.uint8)
    bits = np.unpackbits(noise)[: 2 * _ROUNDS * width].reshape(_ROUNDS, 2, width)
    return tuple((1.0 - 2.0 * first, 1.0 - 2.0 * last) for first, last in bits)


def _hadamard(block: np.ndarray) -> np.ndarray:
    """Multiplies rows by the Hadamard matrix of their length 2**m, scaled to keep lengths."""
    rows, size = block.shape
    for _ in range(size.bit_length() - 1):
        left, right = block[:, : size // 2], block[:, size // 2 :]
        block = np.stack([left + right, left - right], axis=2).reshape(rows, size)
    return block * (1 / math.sqrt(size))
