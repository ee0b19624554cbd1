"""Chunk vectors that came with a request, for that request alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from refrag_components.stores.common.base import BaseChunkStore, ChunkStore
from refrag_components.vectors import ChunkVectors

__all__ = ["SentVectors"]


class SentVectors(BaseChunkStore):
    """Before the server's store, what a client sent; it never gets into that store.

    Nobody can tell whether an encoder really made a vector, so it serves who sent it only.

    Args:
        sent: Chunk vectors by key.
        store: The server's store, for every other key.
    """

    def __init__(self, sent: Mapping[str, ChunkVectors], store: ChunkStore) -> None:
        self._sent = sent
        self._store = store

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None where there is no (readable) value."""
        others = [key for key in keys if key not in self._sent]
        found = iter(self._store.mget(others) if others else ())
        return [self._sent[key] if key in self._sent else next(found) for key in keys]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores what the server has encoded itself."""
        self._store.mset([(key, value) for key, value in pairs if key not in self._sent])

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys of the server's store."""
        self._store.mdelete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the keys of the server's store."""
        return self._store.yield_keys(prefix=prefix)
