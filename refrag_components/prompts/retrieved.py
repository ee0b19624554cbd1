"""What one request has retrieved, from its retriever to the model that reads the prompt.

Only text travels through a prompt. The rest is kept here for as long as the request lasts: each
framework's package says which object belongs to a request.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from refrag_components.stores.base import ChunkStore

__all__ = ["Retrieval", "Retrieved", "note_retrieval", "retrieved_by_hand"]

_MAX_CHARACTERS = 2_000_000  # far more than a decoder can read; the oldest are forgotten first


@dataclass(frozen=True)
class Retrieval:
    """What one search returned.

    Attributes:
        query: What was searched for; "" if that is unknown.
        passages: The texts, without white space around them.
    """

    query: str
    passages: tuple[str, ...]
    _store: weakref.ref[ChunkStore] | None = None

    @classmethod
    def of(cls, query: str, passages: Iterable[str], store: ChunkStore | None = None) -> Self:
        """A search's results.

        Args:
            query: What was searched for; "" if that is unknown.
            passages: Texts; blank ones are left out.
            store: Where their chunk vectors are kept, if anywhere. It is not kept alive.
        """
        texts = tuple(filter(None, (passage.strip() for passage in passages)))
        return cls(query.strip(), texts, None if store is None else weakref.ref(store))

    @property
    def store(self) -> ChunkStore | None:
        """Where the chunk vectors are kept; None if there is no such store, or no longer."""
        return None if self._store is None else self._store()

    @property
    def n_characters(self) -> int:
        """Length of query and passages together."""
        return len(self.query) + sum(map(len, self.passages))


class Retrieved:
    """All that one request has retrieved so far, by any number of threads."""

    def __init__(self) -> None:
        self._retrievals: tuple[Retrieval, ...] = ()
        self._lock = threading.Lock()

    @property
    def retrievals(self) -> tuple[Retrieval, ...]:
        """The searches, oldest first."""
        return self._retrievals

    def add(self, retrieval: Retrieval) -> None:
        """Notes a search."""
        with self._lock:
            self._retrievals = _with(self._retrievals, retrieval)


# Immutable, so that a task or thread that has copied the context never sees what others add.
_by_hand: ContextVar[tuple[Retrieval, ...]] = ContextVar("refrag_by_hand", default=())


def note_retrieval(retrieval: Retrieval, request: Retrieved | None) -> None:
    """Notes a search where the model that answers will look.

    Args:
        retrieval: The search.
        request: What the request has retrieved; None where it cannot be told. In any case the
            search is also noted for the rest of this thread or task.
    """
    if request is not None:
        request.add(retrieval)
    _by_hand.set(_with(_by_hand.get(), retrieval))


def retrieved_by_hand() -> tuple[Retrieval, ...]:
    """Searches of this thread or task, for a model that is called outside any common run."""
    return _by_hand.get()


def _with(retrievals: tuple[Retrieval, ...], new: Retrieval) -> tuple[Retrieval, ...]:
    kept = [*(old for old in retrievals if old != new), new]
    excess = sum(each.n_characters for each in kept) - _MAX_CHARACTERS
    while excess > 0 and len(kept) > 1:
        excess -= kept.pop(0).n_characters
    return tuple(kept)
