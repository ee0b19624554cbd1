"""The passages that match the question's parts expand first, each from where it matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.vectors import unit_rows

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["PER_TOKEN", "LateInteractionPolicy"]

#: Cosine that a token of distance costs. At 0.001 the best passage mostly expands as one piece
#: before the next one begins; answers are found as often from 0.0005 to 0.002 (docs/policies.md).
PER_TOKEN = 0.001


class LateInteractionPolicy(Policy):
    """Scores a chunk by what stands near it in its passage, for each part of the question.

    For every part of the question, two tokens, the best cosine to a chunk of the passage, less
    0.001 for each token of distance to that one; the mean of these over the question. Within a
    passage that is the score of late interaction (MaxSim of ColBERT, arXiv 2004.12832) less how
    far away it was earned, so neighbours mostly expand together: scattered chunks seldom hold an
    answer, and a decoder reads text best in one piece.

    Args:
        model: Its encoder embeds the question's parts.
    """

    name: ClassVar[str] = "late-interaction"

    def __init__(self, model: RefragModel) -> None:
        self._model = model

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """At most 1; 0 everywhere for a blank question."""
        asked = self._model.chunker.cut_questions([inputs.question])
        question = unit_rows(self._model.encoder.encode(asked)[0])
        if not len(question):
            return np.zeros(inputs.n_chunks, dtype=np.float32)
        scores = np.concatenate(
            [
                _nearby(question @ unit_rows(passage.vectors).T, PER_TOKEN * passage.chunk_size)
                for passage in inputs.passages
            ]
        )
        return scores.astype(np.float32)


def _nearby(cosines: np.ndarray, step: float) -> np.ndarray:
    """Mean over the rows of max_j (cosines_j - step |i - j|) at every column i.

    Args:
        cosines: (question chunks, passage chunks).
        step: What a chunk of distance costs.

    Returns:
        (passage chunks,).
    """
    way = step * np.arange(cosines.shape[1])
    before = np.maximum.accumulate(cosines + way, axis=1) - way
    after = np.maximum.accumulate((cosines - way)[:, ::-1], axis=1)[:, ::-1] + way
    nearest: np.ndarray = np.maximum(before, after).mean(axis=0)
    return nearest
