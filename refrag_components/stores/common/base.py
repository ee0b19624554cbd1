"""What every store can do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, Self

from refrag_components.vectors import ChunkVectors

__all__ = ["BaseChunkStore", "ChunkStore"]

_KEYS_PER_HOP = 1000  # a thread for every single key would take longer than reading it


class ChunkStore(Protocol):
    """Keeps the chunk vectors of passages; keys come from ``passage_key``.

    A key holds the model's fingerprint, so several models may share a store. This is all that the
    library asks of a store; LangChain's ``BaseStore`` has it too.
    """

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None where there is no (readable) value."""

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values, all or none of them; a key's earlier value is replaced."""

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``."""


class BaseChunkStore(ABC):
    """Base of the library's stores: a ``ChunkStore`` that ``with`` closes and that can be awaited.

    The asynchronous methods run the others in a thread, so the event loop is not blocked.

    Attributes:
        timeout: Seconds that an answer waits for the store before it goes on without; may be set.
    """

    timeout: float = 5.0

    @abstractmethod
    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None where there is no (readable) value."""

    @abstractmethod
    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values, all or none of them; a key's earlier value is replaced."""

    @abstractmethod
    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""

    @abstractmethod
    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``."""

    async def amget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """``mget`` for asynchronous code."""
        return await asyncio.to_thread(self.mget, keys)

    async def amset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """``mset`` for asynchronous code."""
        await asyncio.to_thread(self.mset, pairs)

    async def amdelete(self, keys: Sequence[str]) -> None:
        """``mdelete`` for asynchronous code."""
        await asyncio.to_thread(self.mdelete, keys)

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """``yield_keys`` for asynchronous code."""
        keys = self.yield_keys(prefix=prefix)
        while page := await asyncio.to_thread(lambda: list(islice(keys, _KEYS_PER_HOP))):
            for key in page:
                yield key

    def scrub(self) -> None:  # noqa: B027 - a store in memory keeps nothing of what it forgot
        """Removes what deleted values left behind on disk, as far as a client of the store can."""

    def close(self) -> None:  # noqa: B027 - a store in memory has nothing to close
        """Releases what the store holds open; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
