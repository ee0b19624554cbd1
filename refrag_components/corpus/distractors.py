"""Passages that a search would return in addition to the right ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from refrag_components.modeling.search_encoder import SearchEncoder

__all__ = ["similar_passages"]

_SEARCHED_AT_ONCE = 512


def similar_passages(
    retriever: SearchEncoder,
    passages: Sequence[str],
    questions: Sequence[str],
    count: int,
    *,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Finds the passages that are most similar to each question, by the base encoder.

    Every passage is compared: a matrix product over 100,000 passages is faster than building an
    index of them for one use.

    Args:
        retriever: Embeds passages and questions.
        passages: The passages to search.
        questions: The questions.
        count: Passages wanted per question.
        device: Where to embed and to search.
        progress: Called with the number of texts embedded after each batch.

    Returns:
        Indices of passages, best first; (questions, at most count), int64.
    """
    pool, asked = (
        torch.from_numpy(retriever.embed(texts, device=device, progress=progress)).to(device)
        for texts in (passages, questions)
    )
    with torch.autocast(device.type, enabled=False):  # rounded cosines would tie
        found = [
            (part @ pool.T).topk(min(count, len(passages)), dim=1).indices.cpu().numpy()
            for part in asked.split(_SEARCHED_AT_ONCE)
        ]
    return np.concatenate(found)
