"""Late interaction in this process, for databases that do not offer it among candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["maxsim", "pack_tokens", "ranking", "unpack_tokens"]


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
    scores: Sequence[float],
    question: np.ndarray | None,
    packed: Sequence[bytes | None],
    *,
    quantised: bool,
) -> list[tuple[int, float]]:
    """Orders what a search by one vector found.

    Args:
        scores: Of each row, by that search.
        question: Token vectors of the question, shape (m, d), each of length 1, for late
            interaction: scores are then its, and rows without token vectors are left out.
        packed: Token vectors of each row as ``pack_tokens`` wrote them, or None; read only then.
        quantised: As they were written.

    Returns:
        Number and score of each row, best first.
    """
    if question is not None:
        found = {i: data for i, data in enumerate(packed) if data is not None}
        width = question.shape[1]
        passages = [unpack_tokens(data, width, quantised=quantised) for data in found.values()]
        return _best_first(found, maxsim(question, passages).tolist())
    return _best_first(range(len(scores)), scores)


def _best_first(rows: Iterable[int], scores: Iterable[float]) -> list[tuple[int, float]]:
    return sorted(zip(rows, scores, strict=True), key=lambda row: -row[1])


def pack_tokens(rows: np.ndarray, *, quantised: bool) -> bytes:
    """Token vectors as bytes: float16, or one bit per value."""
    if quantised:
        return np.packbits(rows > 0, axis=1).tobytes()
    return rows.astype("<f2").tobytes()


def unpack_tokens(data: bytes, width: int, *, quantised: bool) -> np.ndarray:
    """Reads what ``pack_tokens`` wrote; of quantised vectors the signs, scaled to length 1.

    Raises:
        ValueError: If the bytes are not whole vectors of this width.
    """
    if quantised:
        packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, -(-width // 8))
        signs = np.unpackbits(packed, axis=1)[:, :width].astype(np.float32)
        return (2 * signs - 1) / np.float32(np.sqrt(width))
    return np.frombuffer(data, dtype="<f2").reshape(-1, width).astype(np.float32)
