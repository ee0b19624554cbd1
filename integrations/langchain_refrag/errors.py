"""Errors of the library as LangChain's own, by which agents know what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import ContextOverflowError

from refrag_components.exceptions import ContextWindowError

__all__ = ["as_langchain_errors"]


class _ContextOverflowError(ContextWindowError, ContextOverflowError):
    """A prompt that does not fit, by either name."""


@contextmanager
def as_langchain_errors() -> Iterator[None]:
    """Makes errors inside it also those that LangChain's middleware recovers from.

    Raises:
        ContextOverflowError: In place of a ``ContextWindowError``, which it also is.
    """
    try:
        yield
    except ContextWindowError as error:
        raise _ContextOverflowError(str(error)) from error
