"""Late interaction in this process, for databases that do not offer it among candidates."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["maxsim", "pack_tokens", "ranking", "unpack_tokens"]

logger = logging.getLogger(__name__)


def maxsim(question: np.ndarray, passages: Sequence[np.ndarray]) -> np.ndarray:
    """Scores passages by late interaction.

    Args:
        question: Token vectors of the question, shape (m, d), each of length 1.
        passages: Those of each passage, shape (n, d), n at least 1.

    Returns:
        Of each passage, the mean over the question's tokens of the best cosine, -1 to 1.
    """
    if not passages:
        return np.zeros(0, dtype=np.float32)
    starts = np.cumsum([0, *(len(rows) for rows in passages[:-1])])
    best = np.maximum.reduceat(question @ np.concatenate(passages).T, starts, axis=1)
    means: np.ndarray = best.mean(axis=0)
    return means


def ranking(
    label: str,
    scores: Sequence[float],
    question: np.ndarray | None,
    packed: Sequence[bytes | str | None],
    *,
    quantised: bool,
) -> list[tuple[int, float]]:
    """Orders what a search by one vector found.

    Args:
        label: Names the collection in a warning.
        scores: Of each row, by that search.
        question: Token vectors of the question, shape (m, d), each of length 1, for late
            interaction: scores are then its, and rows without token vectors are left out, as are,
            with a warning, those whose token vectors are damaged.
        packed: Token vectors of each row as ``pack_tokens`` wrote them, or that in base64, or None;
            read only then.
        quantised: As they were written.

    Returns:
        Number and score of each row, best first.
    """
    if question is not None:
        found: dict[int, np.ndarray] = {}
        for i, data in enumerate(packed):
            if data is None:
                continue
            try:
                found[i] = unpack_tokens(data, question.shape[1], quantised=quantised)
            except ValueError as error:
                logger.warning("%s: token vectors of a record are damaged: %s", label, error)
        return _best_first(found, maxsim(question, list(found.values())).tolist())
    return _best_first(range(len(scores)), scores)


def _best_first(rows: Iterable[int], scores: Iterable[float]) -> list[tuple[int, float]]:
    return sorted(zip(rows, scores, strict=True), key=lambda row: -row[1])


def pack_tokens(rows: np.ndarray, *, quantised: bool) -> bytes:
    """Token vectors as bytes: float16, or one bit per value."""
    if quantised:
        return np.packbits(rows > 0, axis=1).tobytes()
    return rows.astype("<f2").tobytes()


def unpack_tokens(data: bytes | str, width: int, *, quantised: bool) -> np.ndarray:
    """Reads what ``pack_tokens`` wrote; of quantised vectors the signs, scaled to length 1.

    Args:
        data: The bytes, or these in base64.
        width: Width of a vector.
        quantised: As they were written.

    Returns:
        The vectors, shape (n, width), n at least 1.

    Raises:
        ValueError: If the bytes are not whole, finite vectors of this width, or are none.
    """
    if isinstance(data, str):
        data = base64.b64decode(data, validate=True)
    if not data:
        raise ValueError("there are none")
    if quantised:
        packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, -(-width // 8))
        signs = np.unpackbits(packed, axis=1)[:, :width].astype(np.float32)
        return (2 * signs - 1) / np.float32(np.sqrt(width))
    rows = np.frombuffer(data, dtype="<f2").reshape(-1, width).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("they hold NaN or infinite values")
    return rows
