"""The value of keeping: the compressed rest of a context compared with dropping it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refrag_components.evaluation.answers.results import Result
from refrag_components.evaluation.methods import NONE, AllCompressed, Drop, Keep, Method
from refrag_components.exceptions import EvaluationError

__all__ = ["keeping_pairs", "keeping_values"]

_NOT_IN_PASSAGES = ("yes/no", "unanswerable")  # kinds whose answer occurs in no passage


def keeping_pairs(methods: Sequence[Method]) -> list[tuple[Method, Method]]:
    """The pairs that measure keeping: chosen chunks with the rest compressed, and dropped.

    There is one for each rung. At p=0 nothing is chosen, so the pair is everything compressed, and
    no context.
    """
    pairs: list[tuple[Method, Method]]
    pairs = [(method, NONE) for method in methods if isinstance(method, AllCompressed)]
    pairs += [(m, Drop(m.selection, m.fraction)) for m in methods if isinstance(m, Keep)]
    return [pair for pair in pairs if {*pair} <= {*methods}]


def keeping_values(keep: Result, drop: Result, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The value of keeping, V, of every question: its score with the rest compressed less dropped.

    For log-perplexity it is the nats per token of the answer that keeping saves, so that more is
    always better.

    Args:
        keep: Result with the rest compressed.
        drop: Result for the same questions with the rest dropped.
        metric: A column of the results.

    Returns:
        V of all questions, and V of those whose answer does not occur in the chunks that expand
        (NaN for the others, and if there is no answer to look for), both of shape (questions,).

    Raises:
        EvaluationError: If the results are not for the same questions.
    """
    if list(keep.ids) != list(drop.ids):
        msg = f"{keep.method.name} and {drop.method.name} were not measured on the same questions"
        raise EvaluationError(msg)
    value = keep.columns[metric] - drop.columns[metric]
    if metric == "log_ppl":
        value = -value
    hidden = (keep.columns["shown"] == 0) & ~np.isin(keep.kinds, _NOT_IN_PASSAGES)
    return value, np.where(hidden, value, np.nan)
