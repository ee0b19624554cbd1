"""Rows of one text each, which a decoder need not search for several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import masking_utils

__all__ = ["whole_rows"]

_SEARCH = "find_packed_sequence_indices"


@contextmanager
def whole_rows() -> Iterator[None]:
    """Spares decoders the search for several texts in one row; for rows that hold one each.

    Wherever no mask is given, transformers looks at the positions on the device before it reads
    anything, at every pass of every model. On a GPU that waits until all work given before is
    done, and then the GPU waits until it gets more. Other threads, if any, get the same.
    """
    before = getattr(masking_utils, _SEARCH)
    setattr(masking_utils, _SEARCH, _none_found)
    try:
        yield
    finally:
        setattr(masking_utils, _SEARCH, before)


def _none_found(position_ids: torch.Tensor) -> None:
    """What is found where the positions of each row count up from its first."""
