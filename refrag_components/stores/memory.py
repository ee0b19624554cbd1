"""Chunk vectors in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from refrag_components.forking import OwnLock
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.vectors import ChunkVectors

__all__ = ["MemoryStore"]


class MemoryStore(BaseChunkStore):
    """Keeps the most recently used chunk vectors in memory; safe for many threads.

    A copy in the same process is the store itself, as a copy of a database's handle leads to the
    same database: frameworks copy what they are given. Pickled, it takes its values along; a forked
    child has a store of its own, with what was in it at the fork.

    Args:
        max_bytes: Bytes of arrays to keep before the least recently used passages are forgotten;
            None keeps everything.
    """

    def __init__(self, max_bytes: int | None = 2**30) -> None:
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
        self.max_bytes = max_bytes
        self._values: OrderedDict[str, ChunkVectors] = OrderedDict()
        self._bytes = 0
        self._lock = OwnLock()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Makes a new store; the URL is "memory:"."""
        return cls()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays kept."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None for unknown keys."""
        with self._lock:
            return [self._touch(key) for key in keys]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values; a value above ``max_bytes`` is not kept."""
        with self._lock:
            for key, value in pairs:
                self._drop(key)
                self._values[key] = value
                self._bytes += value.nbytes
            while self.max_bytes is not None and self._bytes > self.max_bytes:
                self._drop(next(iter(self._values)))

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``, least recently used first."""
        with self._lock:
            keys = list(self._values)
        yield from (key for key in keys if key.startswith(prefix or ""))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {"max_bytes": self.max_bytes, "values": list(self._values.items())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_bytes"])  # type: ignore[misc]
        self.mset(state["values"])

    def _touch(self, key: str) -> ChunkVectors | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def _drop(self, key: str) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= value.nbytes
