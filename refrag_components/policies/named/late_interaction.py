"""The passages that match the question's parts expand first, each from where it matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from refrag_components.forking import computing
from refrag_components.modeling.policy_features import (
    COSINE_PER_SHARED_TOKEN,
    COSINE_PER_TOKEN,
)
from refrag_components.modeling.transfer import vectors_on_device
from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.policies.nearby import nearby
from refrag_components.text.chunking import QUESTION_PART
from refrag_components.vectors import unit_rows

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
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

    Args:
        device: Where the vectors are multiplied.
    """

    name: ClassVar[str] = "late-interaction"
    expands_first: ClassVar[str] = (
        "the passages that match the question's parts, each from where it matches"
    )
    revision: ClassVar[int] = 2

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)

    @classmethod
    def made_for(cls, model: RefragModel) -> LateInteractionPolicy:
        """The policy on the model's device."""
        return cls(model.device)

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """At most 1.3; 0 everywhere for a blank question."""
        question = unit_rows(inputs.question.vectors)
        if not (len(question) and inputs.n_chunks):
            return np.zeros(inputs.n_chunks, dtype=np.float32)
        passages = [passage for passage in inputs.passages if passage.n_chunks]
        matches = _cosines(question, passages, self._device)
        matches += COSINE_PER_SHARED_TOKEN * _shared(inputs.question, passages)
        return nearby(matches, passages, COSINE_PER_TOKEN).mean(axis=0).astype(np.float32)


@computing()
@torch.inference_mode()
def _cosines(
    unit: np.ndarray, passages: Sequence[ChunkVectors], device: torch.device
) -> np.ndarray:
    """Cosines of unit rows to the ends of all chunk vectors, (rows, chunks), float32; 0 for zeros.

    The vectors of a long context are tens of megabytes: they are read, but no copy is scaled.
    """
    vectors = vectors_on_device(passages, device)[:, -unit.shape[1] :].float()
    lengths = vectors.norm(dim=1)
    products = torch.from_numpy(unit).to(device) @ vectors.T
    cosines: np.ndarray = (products / torch.where(lengths > 0, lengths, 1)).cpu().numpy()
    return cosines


def _shared(question: EncodedQuestion, passages: Sequence[ChunkVectors]) -> np.ndarray:
    """How rare in the context the rarest token is that each chunk shares with each question part.

    Returns:
        log(chunks / chunks that have the token) / log(chunks), 0 where no token is shared; shape
        (question parts, chunks of all passages).
    """
    lengths = np.concatenate([passage.chunk_lengths for passage in passages])
    tokens = np.concatenate([passage.token_ids for passage in passages])
    asked, columns = np.unique(question.token_ids, return_inverse=True)
    column = np.full(max(int(tokens.max()), int(asked[-1])) + 1, -1)
    real = np.flatnonzero(asked >= 0)
    column[asked[real]] = real
    found = column[tokens]
    shared = np.flatnonzero(found >= 0)
    has = np.zeros((len(lengths), len(asked)), dtype=bool)
    has[np.repeat(np.arange(len(lengths)), lengths)[shared], found[shared]] = True
    rarity = np.log(len(has) / has.sum(axis=0).clip(min=1)) / np.log(max(len(has), 2))
    parts = np.arange(0, len(columns), QUESTION_PART)
    return np.maximum.reduceat((has * rarity)[:, columns], parts, axis=1).T
