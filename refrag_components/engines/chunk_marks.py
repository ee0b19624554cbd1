"""Chunk embeddings that can be told from token embeddings by their size."""

from __future__ import annotations

import torch
from torch import Tensor

from refrag_components.exceptions import InvalidVectorsError

__all__ = ["mark", "unmark"]

# A power of two, so that nothing is lost on the way; float16 does not reach it.
_MARK = 2.0**64
_LEAST = 2.0**32  # far above any embedding, and below any marked one


def mark(embeddings: Tensor) -> Tensor:
    """Makes embeddings so large that no embedding of a token is.

    Args:
        embeddings: Shape (n, d_dec).

    Raises:
        InvalidVectorsError: If one is too small or too large for it.
    """
    marked = embeddings * _MARK
    if not (marked.isfinite().all() and (marked.abs().amax(dim=1) > _LEAST).all()):
        msg = (
            f"a chunk embedding in {embeddings.dtype} cannot be marked for vLLM: its values are "
            'too large, or all of them zero; use engine="transformers"'
        )
        raise InvalidVectorsError(msg)
    return marked


def unmark(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Tells marked embeddings from others, and gives back what they were.

    Nothing waits for the device, and no shape depends on values.

    Args:
        embeddings: Shape (n, d_dec).

    Returns:
        The embeddings as they were, and True at those that were marked, shape (n, 1).
    """
    is_marked = embeddings.abs().amax(dim=1, keepdim=True) > _LEAST
    return torch.where(is_marked, embeddings / _MARK, embeddings), is_marked
