"""ROUGE of summaries, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refrag_components.exceptions import EvaluationError

__all__ = ["ROUGE", "check_rouge", "rouge_columns"]

#: Columns of ``rouge_columns``: overlap of words, of pairs, and the longest common subsequence.
ROUGE = ("rouge1", "rouge2", "rougeL")


def check_rouge() -> None:
    """Checks that ROUGE can be computed.

    Raises:
        EvaluationError: If torchmetrics is missing.
    """
    try:
        import torchmetrics.functional.text  # noqa: F401
    except ImportError as error:
        msg = 'ROUGE needs torchmetrics: pip install "refrag-components[eval]"'
        raise EvaluationError(msg) from error


def rouge_columns(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """F-measures of each prediction, each the best over all references; words are not stemmed.

    Args:
        predictions: What the model wrote.
        references: Right answers of each, at least one.

    Returns:
        For each of ``ROUGE`` values in [0, 1], shape (predictions,), float64.
    """
    from torchmetrics.functional.text import rouge_score

    columns: dict[str, list[float]] = {name: [] for name in ROUGE}
    for prediction, right in zip(predictions, references, strict=True):
        found = [rouge_score(prediction, answer, rouge_keys=ROUGE) for answer in right]
        for name, column in columns.items():
            column.append(max(float(scores[f"{name}_fmeasure"]) for scores in found))
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
