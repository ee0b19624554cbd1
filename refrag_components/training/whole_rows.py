"""Rows of one text each, which a decoder need not search for several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from transformers import masking_utils

__all__ = ["whole_rows"]

_SEARCH = "find_packed_sequence_indices"
_whole: ContextVar[bool] = ContextVar("whole_rows", default=False)


@contextmanager
def whole_rows() -> Iterator[None]:
    """Skips the search for several texts in one row, in this thread; for rows that hold one each.

    Wherever no mask is given, transformers looks at the positions on the device before it reads
    anything, at every pass of every model. On a GPU that waits until all work given before is
    done, and then the GPU waits until it gets more.
    """
    _let_search_be_skipped()
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


@cache
def _let_search_be_skipped() -> None:
    """Once per process, and never undone, so that no other thread is in the middle of it."""
    search = getattr(masking_utils, _SEARCH, None)
    if search is None:  # a version of transformers that has another name for it, or does without
        return

    def unless_whole(*args: Any, **kwargs: Any) -> Any:
        return None if _whole.get() else search(*args, **kwargs)

    setattr(masking_utils, _SEARCH, unless_whole)
