"""How much of the context may enter the decoder as tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from refrag_components.exceptions import BudgetError

__all__ = ["Budget", "select"]


@dataclass(frozen=True)
class Budget:
    """Either a fraction of the chunks or a number of decoder positions.

    Make one with ``Budget.of``.

    Attributes:
        value: A float in [0, 1] is the fraction of chunks that expand; an int from 2 on is the
            number of decoder positions that all passages may take together.
    """

    value: float | int

    @classmethod
    def of(cls, value: float | Budget) -> Budget:
        """Reads a budget.

        Args:
            value: 0 to 1 is a fraction of the chunks (0 and 1 may be ints), an int from 2 on a
                number of decoder positions for all passages together.

        Raises:
            BudgetError: If it is neither.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
            if isinstance(value, Integral) and value >= 2:
                return cls(int(value))
            fraction = float(value)
            if math.isfinite(fraction) and 0.0 <= fraction <= 1.0:
                return cls(fraction)
        msg = (
            f"budget {value!r} is neither a fraction of the chunks (a number in 0..1, as 0.25) "
            "nor a number of decoder positions for all passages (an int from 2 on, as 512)"
        )
        raise BudgetError(msg)


def select(scores: np.ndarray, chunk_lengths: np.ndarray, budget: Budget) -> np.ndarray:
    """Chooses the chunks that expand: best first, the earlier of two equals.

    Args:
        scores: One score a chunk, shape (n_chunks,); higher expands first.
        chunk_lengths: Tokens of each chunk, shape (n_chunks,).
        budget: A fraction p expands round(p * n_chunks) chunks; a number of positions expands
            the best chunks for as long as all chunks together still fit.

    Returns:
        True where a chunk expands, shape (n_chunks,), bool.

    Raises:
        BudgetError: If there are more chunks than positions.
        ValueError: If there is not one finite score a chunk.
    """
    if scores.shape != chunk_lengths.shape or not np.isfinite(scores).all():
        msg = (
            f"a policy must give one finite score for each of {len(chunk_lengths)} chunks, "
            f"got shape {scores.shape}"
        )
        raise ValueError(msg)
    order = np.argsort(-scores, kind="stable")
    if isinstance(budget.value, float):
        count = round(budget.value * len(order))
    else:
        spare = budget.value - len(order)
        if spare < 0:
            msg = (
                f"a budget of {budget.value} positions cannot hold {len(order)} chunks, which take "
                "one position each; raise the budget, retrieve fewer passages, or give a fraction"
            )
            raise BudgetError(msg)
        extra = np.cumsum(chunk_lengths[order] - 1)
        count = int(np.searchsorted(extra, spare, side="right"))
    expanded = np.zeros(len(order), dtype=bool)
    expanded[order[:count]] = True
    return expanded
