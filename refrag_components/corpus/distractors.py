"""Passages that a search would return beside the right ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["similar_passages"]

_SEARCHED_AT_ONCE = 512


def similar_passages(
    model: RefragModel,
    passages: Sequence[str],
    questions: Sequence[str],
    count: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Finds the passages that are most similar to each question, by the base encoder.

    Every passage is compared: a matrix product over 100,000 passages is faster than building an
    index of them for one use.

    Args:
        model: Its retriever embeds passages and questions, on its device.
        passages: The passages to search.
        questions: The questions.
        count: Passages wanted a question.
        progress: Called with the number of texts embedded after each batch.

    Returns:
        Indices of passages, best first; (questions, at most count), int64.
    """
    pool = torch.from_numpy(model.search_vectors(passages, progress=progress)).to(model.device).T
    asked = torch.from_numpy(model.search_vectors(questions, progress=progress)).to(model.device)
    with torch.autocast(model.device.type, enabled=False):  # rounded cosines would tie
        found = [
            (part @ pool).topk(min(count, len(passages)), dim=1).indices.cpu().numpy()
            for part in asked.split(_SEARCHED_AT_ONCE)
        ]
    return np.concatenate(found)
