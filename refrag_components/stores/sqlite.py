"""Chunk vectors in one SQLite file."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from refrag_components.exceptions import CorruptVectorsError
from refrag_components.stores.database import Database
from refrag_components.vectors import CODECS, ChunkVectors, Codec

__all__ = ["SQLiteStore"]

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunk_vectors (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_KEYS_A_PAGE = 1000


class SQLiteStore:
    """Keeps chunk vectors in one SQLite file, for many threads and processes.

    A damaged row counts as a miss, so that the passage is encoded again.

    Args:
        path: The file; created if missing.
        codec: How vectors are stored; what is already there is read whatever its codec.

    Attributes:
        corrupt_rows: Damaged rows met so far.

    Raises:
        StoreError: If the file cannot be opened or belongs to another program.
    """

    def __init__(self, path: str | os.PathLike[str], codec: Codec = "float16") -> None:
        if codec not in CODECS:
            raise ValueError(f"unknown codec {codec!r}; choose one of {', '.join(CODECS)}")
        self.codec: Codec = codec
        self.corrupt_rows = 0
        self.database = Database(path)
        self.database.create_tables(_SCHEMA)

    def __enter__(self) -> SQLiteStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[SQLiteStore], tuple[Path, Codec]]:
        """Copies and other processes open the same file for themselves."""
        return type(self), (self.database.path.absolute(), self.codec)

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        self.database.close()

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry a key, in order; None where a key is unknown or its row damaged."""
        with self.database.read() as connection:
            rows = [self._fetch(connection, key) for key in keys]
        return [self._decode(key, row) for key, row in zip(keys, rows, strict=True)]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values in one transaction; a key's earlier value is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit the codec; nothing is stored then.
            StoreError: If the file cannot be written.
        """
        rows = [(key, value.to_bytes(self.codec) + key.encode()) for key, value in pairs]
        with self.database.write() as connection:
            connection.executemany("INSERT OR REPLACE INTO chunk_vectors VALUES (?, ?)", rows)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys in one transaction; unknown keys are ignored."""
        with self.database.write() as connection:
            connection.executemany(
                "DELETE FROM chunk_vectors WHERE key = ?", [(key,) for key in keys]
            )

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``, in ascending order."""
        prefix = prefix or ""
        after, comparison = prefix, ">="
        while True:
            query = f"SELECT key FROM chunk_vectors WHERE key {comparison} ? ORDER BY key LIMIT ?"
            with self.database.read() as connection:
                page = [key for (key,) in connection.execute(query, (after, _KEYS_A_PAGE))]
            yield from itertools.takewhile(lambda key: key.startswith(prefix), page)
            if len(page) < _KEYS_A_PAGE or not page[-1].startswith(prefix):
                return
            after, comparison = page[-1], ">"

    def _fetch(self, connection: sqlite3.Connection, key: str) -> bytes | None:
        """The row's bytes; None without a row; b"" where SQLite finds the page damaged."""
        query = "SELECT CAST(value AS BLOB) FROM chunk_vectors WHERE key = ?"
        try:
            row = connection.execute(query, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return b""
        return None if row is None else row[0] or b""

    def _decode(self, key: str, data: bytes | None) -> ChunkVectors | None:
        if data is None:
            return None
        name = key.encode()
        try:
            # SQLite notices no damage that makes its index of keys point to another row.
            if not data.endswith(name):
                raise CorruptVectorsError("it does not end with its key")
            return ChunkVectors.from_bytes(data[: -len(name)])
        except CorruptVectorsError as error:
            self.corrupt_rows += 1
            logger.warning("%s: row %s is damaged: %s", self.database.path, key, error)
            return None
