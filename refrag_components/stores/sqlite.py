"""Chunk vectors in one SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from refrag_components.stores.common.database import Database
from refrag_components.stores.common.rows import RowStore, keys_in_order, pack_row, unpack_row
from refrag_components.stores.common.url import local_path
from refrag_components.vectors import ChunkVectors, Codec

__all__ = ["SQLiteStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunk_vectors (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_KEYS_PER_PAGE = 1000
_KEYS_PER_QUERY = 100


class SQLiteStore(RowStore):
    """Keeps chunk vectors in one SQLite file, for many threads and processes.

    A damaged row counts as a miss, so that the passage is encoded again.

    Example:
        >>> import numpy as np
        >>> from refrag_components.vectors import ChunkVectors, passage_key
        >>> tokens = np.arange(12)  # of one passage: a chunk of 8 and one of 4
        >>> made = ChunkVectors(np.ones((2, 3)), tokens, chunk_size=8, fingerprint="abc123")
        >>> key = passage_key("The harbour was dug in 1907.", made.fingerprint)
        >>> with SQLiteStore(":memory:") as store:
        ...     store.mset([(key, made)])
        ...     store.mget([key, "unknown"]) == [made, None]
        True

    Args:
        path: The file; created if missing.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.

    Attributes:
        corrupt_rows: Damaged rows met so far.

    Raises:
        StoreError: If the file cannot be opened or belongs to another program.
    """

    def __init__(self, path: str | os.PathLike[str], codec: Codec = "float16") -> None:
        super().__init__(str(path), codec)
        self.database = Database(path)
        self.database.create_tables(_SCHEMA)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``sqlite:///path``, with ``?codec=int8`` if that is how to store."""
        path, options = local_path(url, "codec")
        return cls(path, **options)

    def __reduce__(self) -> tuple[type[SQLiteStore], tuple[Path, Codec]]:
        """Copies and other processes open the same file for themselves."""
        return type(self), (self.database.path.absolute(), self.codec)

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        self.database.close()

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None for unknown keys and damaged rows."""
        rows: dict[str, bytes | None] = {}
        with self.database.read() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                rows |= self._fetch(connection, keys[start : start + _KEYS_PER_QUERY])
        return [self._decode(key, rows.get(key)) for key in keys]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values in one transaction; a key's earlier value is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit the codec; nothing is stored then.
            StoreError: If the file cannot be written.
        """
        rows = [(key, pack_row(key, value, self.codec)) for key, value in pairs]
        with self.database.write() as connection:
            connection.executemany("INSERT OR REPLACE INTO chunk_vectors VALUES (?, ?)", rows)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys in one transaction; unknown keys are ignored."""
        with self.database.write() as connection:
            connection.executemany(
                "DELETE FROM chunk_vectors WHERE key = ?", [(key,) for key in keys]
            )

    def scrub(self) -> None:
        """Writes the file again without what was deleted, and empties its log."""
        self.database.scrub()

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``, in ascending order."""
        return keys_in_order(self._page, prefix or "", _KEYS_PER_PAGE)

    def _page(self, comparison: str, key: str, size: int) -> list[str]:
        query = f"SELECT key FROM chunk_vectors WHERE key {comparison} ? ORDER BY key LIMIT ?"
        with self.database.read() as connection:
            return [found for (found,) in connection.execute(query, (key, size))]

    def _fetch(
        self, connection: sqlite3.Connection, keys: Sequence[str]
    ) -> dict[str, bytes | None]:
        """Bytes of rows by their keys; b"" where SQLite finds a page damaged."""
        places = ",".join("?" * len(keys))
        query = f"SELECT key, CAST(value AS BLOB) FROM chunk_vectors WHERE key IN ({places})"
        try:
            return {key: data or b"" for key, data in connection.execute(query, tuple(keys))}
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
        if len(keys) == 1:
            return {keys[0]: b""}
        found: dict[str, bytes | None] = {}
        for key in keys:  # which of them are damaged
            found |= self._fetch(connection, (key,))
        return found

    def _decode(self, key: str, data: bytes | None) -> ChunkVectors | None:
        # SQLite does not notice damage that makes its index of keys point to another row.
        return None if data is None else self._read(key, unpack_row, data)
