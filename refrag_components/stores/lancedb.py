"""Chunk vectors in LanceDB."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

from refrag_components.exceptions import CorruptVectorsError, MissingExtraError, StoreError
from refrag_components.forking import OwnLock
from refrag_components.stores.common.client import client_errors
from refrag_components.stores.common.rows import RowStore, pack_row, unpack_row
from refrag_components.stores.common.url import local_path
from refrag_components.vectors import ChunkVectors, Codec

try:
    import lancedb
    import pyarrow as pa
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'LanceDBStore needs lancedb; install it with: pip install "refrag-components[lancedb]"'
    ) from error

__all__ = ["LanceDBStore"]

logger = logging.getLogger(__name__)

_ADVICE = (
    "check that the table is not another program's and that its folder is complete and writable"
)
_SCHEMA = pa.schema([("key", pa.string()), ("value", pa.binary())])

# Every write adds a file and a version, which readers pay for (100 ms per look-up with 600 files).
_WRITES_PER_COMPACTION = 100

# Compacting makes one file of many, but frees nothing until the versions that need the many are
# removed: while there are writers, those older than any read takes; on closing, all of them.
_OLD = timedelta(seconds=10)
_ALL = timedelta(milliseconds=1)

_Result = TypeVar("_Result")


class LanceDBStore(RowStore):
    """Keeps chunk vectors in a table of the user's LanceDB, for threads and processes.

    A row holds the serialised value, not a column of vectors: that takes the same space (25.3 kB
    for 32 float16 vectors of width 384, either way), keeps every codec and any width, and carries
    a checksum. Every ``mset`` is one version of the table. Every 100 of them, and on closing, the
    table is compacted and its earlier versions are removed. Tenants that must not see each
    other get one table each.

    Args:
        database: The user's connection, from ``lancedb.connect``.
        table: The table, created if missing.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.

    Raises:
        StoreError: If the table cannot be opened or created, or is another program's.
    """

    def __init__(
        self,
        database: lancedb.DBConnection,
        *,
        table: str = "refrag_chunk_vectors",
        codec: Codec = "float16",
    ) -> None:
        super().__init__(f"LanceDB table {table} in {database.uri}", codec)
        self._lock = OwnLock()
        self._process = os.getpid()
        self._writes = 0
        with client_errors(self.label, _ADVICE):
            self._table: Any = database.create_table(table, schema=_SCHEMA, exist_ok=True)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``lancedb:///path``, created if missing; options: ``table``, ``codec``.

        For databases elsewhere, pass your own connection to the class.
        """
        path, options = local_path(url, "table", "codec")
        try:
            database = lancedb.connect(path)
        except Exception as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error
        return cls(database, **options)

    def close(self) -> None:
        """Compacts what was written; the connection stays open, since it holds nothing."""
        with self._lock:
            self._compact(after=2, remove=_ALL)

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None for unknown keys and damaged rows."""
        rows: dict[str, list[bytes]] = {}
        if keys:
            for row in self._rows(_among(keys), ["key", "value"]):
                rows.setdefault(row["key"], []).append(row["value"] or b"")
        values = {key: self._read(key, _first_whole, found) for key, found in rows.items()}
        return [values.get(key) for key in keys]

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values in one version of the table; a key's earlier value is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit the codec; nothing is stored then.
            StoreError: If the table cannot be written.
        """
        rows = {key: pack_row(key, value, self.codec) for key, value in pairs}
        if not rows:
            return
        data = pa.table({"key": list(rows), "value": list(rows.values())}, schema=_SCHEMA)

        def merge() -> None:
            merging = self._table.merge_insert("key").when_matched_update_all()
            merging.when_not_matched_insert_all().execute(data)

        with self._lock:
            self._on_latest(merge)
            self._writes += 1
            self._compact(after=_WRITES_PER_COMPACTION, remove=_OLD)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys in one version of the table; unknown keys are ignored."""
        if not keys:
            return
        with self._lock:
            self._on_latest(lambda: self._table.delete(_among(keys)))
            self._writes += 1

    def scrub(self) -> None:
        """Writes the table again and removes all earlier versions: they hold what was deleted.

        Raises:
            StoreError: If another process is writing; try again then.
        """
        with self._lock:
            # Compaction would leave files in which little was deleted as they are.
            self._on_latest(lambda: self._table.update(values_sql={"value": "value"}))
            with client_errors(self.label, _ADVICE):
                self._table.optimize(cleanup_older_than=_ALL, delete_unverified=True)
                self._table.optimize(cleanup_older_than=_ALL, delete_unverified=True)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``."""
        where = f"left(key, {len(prefix)}) = {_quoted(prefix)}" if prefix else None
        # Two processes that add a key at the same moment may leave it twice.
        yield from dict.fromkeys(row["key"] for row in self._rows(where, ["key"]))

    def _rows(self, where: str | None, columns: list[str]) -> list[dict[str, Any]]:
        def fetch() -> list[dict[str, Any]]:
            query = self._table.search().select(columns)
            return (query.where(where) if where else query).to_arrow().to_pylist()

        return self._on_latest(fetch)

    def _on_latest(self, work: Callable[[], _Result]) -> _Result:
        """Works on the table's latest version; again if another process removed that."""
        if self._process != os.getpid():  # its threads are not in this process
            msg = f"{self.label} was opened before this process was forked; open it again here"
            raise StoreError(msg)
        with client_errors(self.label, _ADVICE):
            try:
                self._table.checkout_latest()
                return work()
            except Exception as error:
                logger.info("%s is read again: %s", self.label, error)
            self._table.checkout_latest()
            return work()

    def _compact(self, *, after: int, remove: timedelta) -> None:
        """Makes one file of many after this many writes, and removes older versions."""
        if self._writes < after:
            return
        self._writes = 0
        try:
            self._table.optimize(cleanup_older_than=remove)
        except Exception as error:  # another process compacts or writes; nothing is lost
            logger.info("%s was not compacted: %s", self.label, error)


def _first_whole(key: str, rows: list[bytes]) -> ChunkVectors:
    """The value of the first row that is not damaged."""
    for data in rows[:-1]:
        try:
            return unpack_row(key, data)
        except CorruptVectorsError:
            continue
    return unpack_row(key, rows[-1])


def _among(keys: Sequence[str]) -> str:
    return f"key IN ({', '.join(_quoted(key) for key in dict.fromkeys(keys))})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
