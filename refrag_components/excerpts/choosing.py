"""Which pieces are read under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["best_pieces", "falling_point"]


def best_pieces(
    scores: np.ndarray, protected: np.ndarray, tokens: np.ndarray, heads: np.ndarray, limit: float
) -> list[tuple[int, ...]]:
    """The best pieces that fit, those that must be read before all others.

    A piece that does not fit is passed over, so that a long sentence at the top does not leave the
    budget unused.

    Args:
        scores: One per piece, (n,).
        protected: True for pieces that are read even if they exceed the limit, (n,), bool.
        tokens: Tokens of each piece, (n,).
        heads: Index of the piece that must be read with each, -1 if there is none, (n,). By
            itself such a piece is read only if it is protected.
        limit: Most tokens of all pieces together.

    Returns:
        Indices of pieces, best first; a piece and its head together, the head once.
    """
    leading = {*heads[heads >= 0].tolist()}
    chosen: list[tuple[int, ...]] = []
    read: set[int] = set()
    used = 0
    for i in np.lexsort((-scores, ~protected)).tolist():  # stable: the earlier of two equals
        if i in read or (i in leading and not protected[i]):
            continue
        new = tuple(j for j in (int(heads[i]), i) if j >= 0 and j not in read)
        needed = sum(int(tokens[j]) for j in new)
        if protected[i] or used + needed <= limit:
            chosen.append(new)
            read.update(new)
            used += needed
    return chosen


def falling_point(scores: Sequence[float] | np.ndarray) -> float:
    """The score from which on pieces are worth reading: where the scores fall.

    It parts them into two groups with the least variance within them (Otsu, IEEE Transactions on
    Systems, Man and Cybernetics 9(1), 1979).

    Args:
        scores: At least one.

    Returns:
        The lowest score of the upper group; the lowest of all if they are all equal.
    """
    ranked = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    n = len(ranked)
    if n < 2 or ranked[0] == ranked[-1]:
        return float(ranked[-1])
    counts = np.arange(1, n)
    upper = ranked.cumsum()[:-1]
    above, below = upper / counts, (ranked.sum() - upper) / (n - counts)
    between = counts * (n - counts) * (above - below) ** 2
    return float(ranked[int(between.argmax())])
