"""Neighbouring chunks as text that a model can read and name by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.policies.base import PolicyInputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Stretch", "ranked_scores", "stretches"]


@dataclass(frozen=True)
class Stretch:
    """Some neighbouring chunks of one passage.

    Attributes:
        text: Their text on one line, so that nothing in it passes for another number.
        first: The first of them among the chunks of all passages.
        last: The one after the last of them.
    """

    text: str
    first: int
    last: int


def stretches(
    inputs: PolicyInputs, tokenizer: PreTrainedTokenizerBase, tokens: int
) -> list[Stretch]:
    """Cuts passages into stretches of whole chunks.

    Args:
        inputs: The prompt's passages.
        tokenizer: The decoder's.
        tokens: Of a stretch; at least one chunk, however long.

    Returns:
        Stretches that cover all chunks in order.
    """
    found = []
    before = 0
    for passage in inputs.passages:
        size = max(tokens // passage.chunk_size, 1)
        for first in range(0, passage.n_chunks, size):
            last = min(first + size, passage.n_chunks)
            ids = passage.token_ids[first * passage.chunk_size : last * passage.chunk_size]
            text = str(tokenizer.decode(np.asarray(ids, np.int64).tolist()))
            found.append(Stretch(" ".join(text.split()), before + first, before + last))
        before += passage.n_chunks
    return found


def ranked_scores(
    named: list[list[int]], parts: list[Stretch], otherwise: np.ndarray
) -> np.ndarray:
    """Scores that put the chunks of some stretches first.

    Args:
        named: Indices of stretches, the most important first; those of one list rank the same.
        parts: The stretches.
        otherwise: What ranks chunks of the same stretch, and all that are not named; (n_chunks,).

    Returns:
        Scores in 0..1 for what is not named, above that for what is; (n_chunks,), float32.
    """
    low, high = otherwise.min(initial=0), otherwise.max(initial=0)
    scores = 0.999 * (otherwise - low) / max(high - low, 1e-9)
    for rank, same in enumerate(named):
        for i in same:
            scores[parts[i].first : parts[i].last] += len(named) - rank
    return scores.astype(np.float32)
