"""Records in a folder: a SQLite file, and FAISS for the passage vectors."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from refrag_components.exceptions import StoreError
from refrag_components.forking import OwnLock
from refrag_components.records.base import (
    CANDIDATES,
    FoundRecord,
    Record,
    found_record,
    question,
    tenant_id,
)
from refrag_components.records.faiss_index import VectorIndex
from refrag_components.records.maxsim import pack_tokens, ranking
from refrag_components.stores.common.database import Database
from refrag_components.stores.common.rows import pack_row, unpack_row

__all__ = ["FaissRecords"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    passage BLOB NOT NULL,
    chunks BLOB NOT NULL,
    tokens BLOB
);
"""

_BYTES = 2  # of a value in half precision
_ROWS_AT_ONCE = 10_000


class FaissRecords:
    """Keeps records in a folder of the user's, for threads and processes of one machine.

    A record is a row of a SQLite file, which alone says what there is; a search is a FAISS search
    and one query of that file. FAISS holds the passage vectors in memory and reads those that were
    added since, by anybody, before every search. Up to 100,000 passages all are compared; above,
    those in the nearest sixteenth of inverted lists (IVF), made when the folder is opened.

    Tenants are folders: each has its own file and its own index.

    Args:
        folder: Where the folders of tenants are; made if missing.
        tenant: Whose records are written and read.
        quantised: Whether token vectors are stored as one bit per value, 16 times smaller; the same
            for all records of a folder.

    Raises:
        StoreError: If the file cannot be opened, at the first call.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, tenant: str = "", quantised: bool = False
    ) -> None:
        self._folder = Path(folder)
        self._quantised = quantised
        self._open(tenant)

    def _open(self, tenant: str) -> None:
        self.tenant = tenant
        # A hash, since a tenant may have any name, and a folder may not.
        name = tenant_id(tenant)
        self._path = self._folder / name / "records.sqlite"
        self._label = f"records in {self._path}"
        self._database: Database | None = None
        self._lock = OwnLock()
        self._index: VectorIndex | None = None
        self._last_id = 0

    def for_tenant(self, tenant: str) -> Self:
        """The folder of another tenant."""
        other = copy.copy(self)
        other._open(tenant)
        return other

    def close(self) -> None:
        """Closes the file; the next call opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def put(self, records: Sequence[Record]) -> None:
        """Stores records in one transaction."""
        rows = {record.key: self._row(record) for record in records}
        if not rows:
            return
        width = len(records[0].vector)
        with self._opened().write() as connection:
            known = connection.execute("SELECT length(passage) FROM records LIMIT 1").fetchone()
            if any(len(row[2]) != (known or [_BYTES * width])[0] for row in rows.values()):
                msg = f"{self._label} hold vectors of another width; use another folder"
                raise StoreError(msg)
            # A replaced record gets a new number, by which others notice.
            connection.executemany(
                "INSERT OR REPLACE INTO records (key, text, metadata, passage, chunks, tokens) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [(key, *row) for key, row in rows.items()],
            )

    def search(
        self,
        vector: np.ndarray,
        token_vectors: np.ndarray | None = None,
        *,
        k: int = 10,
        candidates: int = CANDIDATES,
    ) -> list[FoundRecord]:
        """Finds passages, with their chunk vectors."""
        vector, tokens = question(vector, token_vectors)
        rows = self._nearest(vector, k if tokens is None else candidates)
        best = ranking(
            self._label,
            [score for _, score in rows],
            tokens,
            [row[-1] for row, _ in rows],
            quantised=self._quantised,
        )
        return [self._found(rows[i][0], score) for i, score in best[:k]]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        with self._opened().write() as connection:
            connection.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in keys])

    def _nearest(self, vector: np.ndarray, k: int) -> list[tuple[tuple[Any, ...], float]]:
        """Rows of the file, nearest first, with their cosines."""
        # In a forked child: another thread of the parent may have been adding to it.
        self._lock.begin_again(self._drop)
        with self._lock:
            rows = self._look_up(vector, k)
            if rows is None:  # some were deleted or replaced
                self._drop()
                rows = self._look_up(vector, k)
            return [] if rows is None else rows

    def _drop(self) -> None:
        self._index, self._last_id = None, 0

    def _look_up(self, vector: np.ndarray, k: int) -> list[tuple[tuple[Any, ...], float]] | None:
        """As ``_nearest``; None if FAISS found what is in the file no longer."""
        with self._opened().read() as connection:
            self._read_on(connection)
            if self._index is None:
                return []
            if self._index.width != len(vector):
                msg = f"{self._label} hold vectors of width {self._index.width}"
                raise StoreError(f"{msg}, the question's has {len(vector)}")
            nearest = self._index.search(vector, k)
            marks = ", ".join("?" * len(nearest))
            found = {
                row[0]: row[1:]
                for row in connection.execute(
                    "SELECT id, key, text, metadata, CAST(chunks AS BLOB), tokens FROM records "
                    f"WHERE id IN ({marks})",
                    [number for number, _ in nearest],
                )
            }
        if len(found) < len(nearest):
            return None
        return [(found[number], score) for number, score in nearest]

    def _read_on(self, connection: sqlite3.Connection) -> None:
        """Adds to the index what has been added to the file."""
        query = "SELECT id, passage FROM records WHERE id > ? ORDER BY id LIMIT ?"
        while rows := connection.execute(query, [self._last_id, _ROWS_AT_ONCE]).fetchall():
            vectors = np.stack([np.frombuffer(data, dtype="<f2") for _, data in rows])
            if self._index is None:
                self._index = VectorIndex(vectors.shape[1])
            ids = np.array([number for number, _ in rows], dtype=np.int64)
            self._index.add(ids, vectors.astype(np.float32))
            self._last_id = rows[-1][0]

    def _opened(self) -> Database:
        if self._database is None:
            database = Database(self._path)
            database.create_tables(_SCHEMA)
            self._database = database
        return self._database

    def _row(self, record: Record) -> tuple[Any, ...]:
        tokens = record.token_vectors
        return (
            record.text,
            json.dumps(dict(record.metadata)),
            record.vector.astype("<f2").tobytes(),
            pack_row(record.key, record.chunk_vectors, "float16"),
            None if tokens is None else pack_tokens(tokens, quantised=self._quantised),
        )

    def _found(self, row: tuple[Any, ...], score: float) -> FoundRecord:
        key, text, metadata, chunks, _ = row
        return found_record(
            self._label,
            text=text,
            score=score,
            key=key,
            metadata=metadata,
            read=lambda key: unpack_row(key, chunks),
        )
