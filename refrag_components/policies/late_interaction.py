"""The passages that match the question's parts expand first, each from where it matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from refrag_components.modeling.policy_features import (
    COSINE_PER_SHARED_TOKEN,
    COSINE_PER_TOKEN,
)
from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.policies.nearby import nearby
from refrag_components.text.chunking import QUESTION_PART
from refrag_components.vectors import unit_rows

if TYPE_CHECKING:
    from refrag_components.modeling.encoded_question import EncodedQuestion
    from refrag_components.vectors import ChunkVectors

__all__ = ["LateInteractionPolicy"]


class LateInteractionPolicy(Policy):
    """Scores a chunk by what is near it in its passage, for each part of the question.

    How well a chunk matches a part of the question (two tokens) is their cosine, plus up to 0.3 for
    a token that both have: all of it if no other chunk of the context has that token, nothing if
    every chunk has it. For each part the best match in the passage counts, less 0.003 per token of
    distance to it; the score is the mean over the parts. Within a passage this is late interaction
    (MaxSim of ColBERT, arXiv 2004.12832), by vectors and by words, less a cost of distance, so that
    neighbours mostly expand together: scattered chunks seldom hold an answer, and a decoder reads
    contiguous text best.
    """

    name: ClassVar[str] = "late-interaction"
    revision: ClassVar[int] = 2

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """At most 1.3; 0 everywhere for a blank question."""
        question = unit_rows(inputs.question.vectors)
        if not (len(question) and inputs.n_chunks):
            return np.zeros(inputs.n_chunks, dtype=np.float32)
        passages = [passage for passage in inputs.passages if passage.n_chunks]
        read = [vectors for vectors in inputs.vectors if len(vectors)]
        matches = np.concatenate([_cosines(question, vectors) for vectors in read], axis=1)
        matches += COSINE_PER_SHARED_TOKEN * _shared(inputs.question, passages)
        return nearby(matches, passages, COSINE_PER_TOKEN).mean(axis=0).astype(np.float32)


def _cosines(unit: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines of unit rows to vectors, (rows, vectors), float32; 0 for a vector of zeros.

    The vectors of a long context are tens of megabytes: they are read, but no copy is scaled.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    cosines: np.ndarray = unit @ vectors.T / np.where(lengths > 0, lengths, 1)
    return cosines.astype(np.float32)


def _shared(question: EncodedQuestion, passages: Sequence[ChunkVectors]) -> np.ndarray:
    """How rare in the context the rarest token is that each chunk shares with each question part.

    Returns:
        log(chunks / chunks that have the token) / log(chunks), 0 where no token is shared; shape
        (question parts, chunks of all passages).
    """
    lengths = np.concatenate([passage.chunk_lengths for passage in passages])
    tokens = np.concatenate([passage.token_ids for passage in passages])
    first = np.cumsum(lengths) - lengths
    has = np.logical_or.reduceat(tokens[:, None] == question.token_ids, first, axis=0)
    rarity = np.log(len(has) / has.sum(axis=0).clip(min=1)) / np.log(max(len(has), 2))
    parts = np.arange(0, len(question.token_ids), QUESTION_PART)
    return np.maximum.reduceat(has * rarity, parts, axis=1).T
