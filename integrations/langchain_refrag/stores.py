"""Stores of chunk vectors as stores of LangChain, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from langchain_core.stores import BaseStore, ByteStore

from refrag_components.stores.common.base import ChunkStore
from refrag_components.stores.common.rows import RowStore, pack_row, unpack_row
from refrag_components.vectors import ChunkVectors, Codec

__all__ = ["ByteChunkStore", "RefragStore"]


class RefragStore(BaseStore[str, ChunkVectors]):
    """Any store of chunk vectors as a ``BaseStore`` of LangChain; async methods run in threads.

    Example:
        ```python
        store = RefragStore(SQLiteStore("chunk-vectors.sqlite"))
        await store.amget(keys)
        ```

    Args:
        store: Where chunk vectors are kept.
    """

    def __init__(self, store: ChunkStore) -> None:
        self.store = store

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None where there is no (readable) value."""
        return self.store.mget(keys)

    def mset(self, key_value_pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        """Stores values; a key's earlier value is replaced."""
        self.store.mset(key_value_pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""
        self.store.mdelete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``."""
        yield from self.store.yield_keys(prefix=prefix)


class ByteChunkStore(RowStore):
    """Any ``ByteStore`` of LangChain (files, Redis, ...) as a store of chunk vectors.

    A damaged value, or one that was written under another key, counts as a miss, so that the
    passage is encoded again.

    Example:
        ```python
        store = ByteChunkStore(LocalFileStore("chunk-vectors"))
        retriever = RefragRetriever(retriever=my_retriever, store=store)
        ```

    Args:
        store: Where the bytes are kept; this store is as thread-safe as that one.
        namespace: Put before every key. Tenants or applications that share ``store`` see nothing of
            each other if no namespace begins with another. Without one, all keys of ``store`` count
            as this store's: ``forget_everything`` deletes them.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.

    Raises:
        ValueError: If there is no such codec.
    """

    def __init__(self, store: ByteStore, *, namespace: str = "", codec: Codec = "float16") -> None:
        super().__init__(type(store).__name__, codec)
        self.store = store
        self.namespace = namespace

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None where there is no (readable) value."""
        if not keys:
            return []  # Redis takes commands without keys for mistakes, here and below
        names = [self.namespace + key for key in keys]
        return [
            None if data is None else self._read(name, unpack_row, data)
            for name, data in zip(names, self.store.mget(names), strict=True)
        ]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values; a key's earlier value is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit the codec; nothing is stored then.
        """
        named = [(self.namespace + key, value) for key, value in pairs]
        if named:
            self.store.mset([(name, pack_row(name, value, self.codec)) for name, value in named])

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""
        if keys:
            self.store.mdelete([self.namespace + key for key in keys])

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``; looks through all of ``store``."""
        # What a prefix means is not the same everywhere: Redis takes it for a pattern, files for a
        # folder. Where it finds too little, forgetting would leave vectors behind.
        begin = self.namespace + (prefix or "")
        seen = set()
        for name in map(str, self.store.yield_keys()):
            if name.startswith(begin) and name not in seen:  # Redis may yield a key twice
                seen.add(name)
                yield name.removeprefix(self.namespace)
