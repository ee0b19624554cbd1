"""Chunks that resemble the question expand first."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from refrag_components.policies.base import Policy, PolicyInputs

__all__ = ["SimilarityPolicy"]


class SimilarityPolicy(Policy):
    """Scores a chunk by the cosine between its vector and the question's, the mean of its parts."""

    name: ClassVar[str] = "similarity"
    expands_first: ClassVar[str] = "chunks whose vector resembles the question's"

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Cosines in [-1, 1]; 0 where a vector is zero."""
        question = inputs.question.centre
        chunks = np.concatenate(inputs.vectors)
        lengths = np.linalg.norm(chunks, axis=1) * np.linalg.norm(question)
        cosines: np.ndarray = chunks @ question / np.maximum(lengths, np.finfo(np.float32).tiny)
        return cosines.astype(np.float32)
