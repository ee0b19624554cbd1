"""What one request has retrieved, from its retriever to the model that reads the prompt.

Only text travels through a prompt. The rest is kept here for as long as the request lasts: each
framework's package says which object belongs to a request.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["Retrieval", "Retrieved", "begin_request", "retrieved_by_hand"]

# Far more than a decoder can read. The oldest are forgotten first.
_MAX_CHARACTERS = 2_000_000
_MAX_REQUESTS = 32


@dataclass(frozen=True)
class Retrieval:
    """What one search returned.

    Attributes:
        query: What was searched for; "" if that is unknown.
        passages: The texts, without white space around them.
        carried: Of passages that brought their chunk vectors, by their keys, a store of these; it
            is kept as long as this is.
    """

    query: str
    passages: tuple[str, ...]
    _store: weakref.ref[ChunkStore] | None = None
    carried: Mapping[str, ChunkStore] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        query: str,
        passages: Iterable[str],
        store: ChunkStore | None = None,
        carried: Mapping[str, ChunkStore] | None = None,
    ) -> Self:
        """A search's results.

        Args:
            query: What was searched for; "" if that is unknown.
            passages: Texts; blank ones are left out.
            store: Where their chunk vectors are kept, if anywhere. It is not kept alive.
            carried: Of passages that brought their chunk vectors, by their keys, a store of these.
        """
        texts = tuple(filter(None, (passage.strip() for passage in passages)))
        kept = None if store is None else weakref.ref(store)
        return cls(query.strip(), texts, kept, {} if carried is None else carried)

    @property
    def store(self) -> ChunkStore | None:
        """Where the chunk vectors are kept; None if there is no such store, or no longer."""
        return None if self._store is None else self._store()

    def store_of(self, passage: str, key: str) -> ChunkStore | None:
        """Where the chunk vectors of a passage are or belong.

        Args:
            passage: The passage.
            key: Its key for the model that reads it.

        Returns:
            The store; None if the passage was not found here, or nobody says.
        """
        return self.carried.get(key, self.store) if passage in self.passages else None

    @property
    def n_characters(self) -> int:
        """Length of query and passages together."""
        return len(self.query) + sum(map(len, self.passages))


class Retrieved:
    """All that one request has retrieved so far, by any number of threads.

    Attributes:
        is_read: Whether a model that belongs to the request has read it.
    """

    def __init__(self) -> None:
        self.is_read = False
        self._retrievals: tuple[Retrieval, ...] = ()
        self._lock = threading.Lock()

    @property
    def retrievals(self) -> tuple[Retrieval, ...]:
        """The searches, oldest first."""
        return self._retrievals

    @property
    def n_characters(self) -> int:
        """Length of all queries and passages together."""
        return sum(each.n_characters for each in self._retrievals)

    def add(self, retrieval: Retrieval) -> None:
        """Notes a search."""
        with self._lock:
            kept = [*(old for old in self._retrievals if old != retrieval), retrieval]
            self._retrievals = tuple(_newest(kept, _MAX_CHARACTERS))


Sized = TypeVar("Sized", Retrieval, Retrieved)

# Immutable, so that a thread or task that has copied the context does not see what others begin.
_requests: ContextVar[tuple[Retrieved, ...]] = ContextVar("refrag_requests", default=())


def begin_request(retrieved: Retrieved) -> None:
    """Notes that a request begins in this thread or task.

    What it retrieves is then known here to a model that is called by hand when it has ended.
    """
    before = [each for each in _requests.get() if each.retrievals and not each.is_read]
    _requests.set(tuple(_newest([*before[1 - _MAX_REQUESTS :], retrieved], _MAX_CHARACTERS)))


def retrieved_by_hand() -> tuple[Retrieval, ...]:
    """Searches of this thread or task, for a model that is called outside any request.

    Those that a request of their own has made and answered are nobody else's.
    """
    open_requests = (request for request in _requests.get() if not request.is_read)
    return tuple(search for request in open_requests for search in request.retrievals)


def _newest(kept: list[Sized], most: int) -> list[Sized]:
    """As many of the last ones as have no more characters, and at least one."""
    excess = sum(each.n_characters for each in kept) - most
    while excess > 0 and len(kept) > 1:
        excess -= kept.pop(0).n_characters
    return kept
