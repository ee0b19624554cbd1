"""Which documents an index holds, and their passages: tables next to the chunk vectors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refrag_components.checking import parse_json
from refrag_components.exceptions import StoreError
from refrag_components.stores.common.database import Database
from refrag_components.text.documents import Document
from refrag_components.text.tokenization import encodable
from refrag_components.vectors import passage_key

__all__ = ["Catalog", "Counts", "IndexedPassage", "PassageRow", "Position"]

logger = logging.getLogger(__name__)

# AUTOINCREMENT never gives an id twice, so ids say which passages a search index already has.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, key TEXT NOT NULL,
    text TEXT NOT NULL, tokens INTEGER NOT NULL, vector BLOB NOT NULL, page INTEGER
);
CREATE INDEX IF NOT EXISTS passages_by_document ON passages (document, tokens);
CREATE INDEX IF NOT EXISTS passages_by_key ON passages (key);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value NOT NULL);
CREATE TABLE IF NOT EXISTS awaited (key TEXT PRIMARY KEY, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS discarded (key TEXT PRIMARY KEY);
"""
_ROWS_PER_PAGE = 4096


class Counts(NamedTuple):
    """How much a catalog holds; a passage in two documents counts twice."""

    documents: int
    passages: int
    chunks: int
    tokens: int


class Position(NamedTuple):
    """The state of the passages.

    Attributes:
        last_id: The highest id that a passage ever had.
        removals: How often passages have been removed.
    """

    last_id: int
    removals: int


class PassageRow(NamedTuple):
    """A passage to write.

    Attributes:
        key: Its key in the store.
        text: Its text.
        tokens: Number of its decoder tokens.
        vector: Its search vector, shape (d,), float32.
        page: The page on which it begins; None if its document has no pages.
    """

    key: str
    text: str
    tokens: int
    vector: np.ndarray
    page: int | None = None


@dataclass(frozen=True)
class IndexedPassage:
    """A passage as read: its document's path and metadata with its own key, text and page."""

    key: str
    text: str
    path: str
    metadata: dict[str, Any]
    page: int | None = None


class Catalog:
    """The documents and passages of an index.

    Args:
        database: Where its tables are; transactions can span the chunk vectors in the same file.
        fingerprint: Of the model that makes the passages' keys.
    """

    def __init__(self, database: Database, fingerprint: str) -> None:
        self._database = database
        self._fingerprint = fingerprint
        database.create_tables(_SCHEMA)
        self._page = self._page_column()

    def _page_column(self) -> str:
        """The column with pages, which earlier versions did not make, or what stands for it."""
        query = "SELECT count(*) FROM pragma_table_info('passages') WHERE name = 'page'"
        with self._database.read() as connection:
            known = connection.execute(query).fetchone()[0]
        if not known and self._database.read_only:
            return "NULL"
        if not known:
            with self._database.write() as connection:
                if not connection.execute(query).fetchone()[0]:  # by another process meanwhile
                    connection.execute("ALTER TABLE passages ADD COLUMN page INTEGER")
        return "page"

    def digest(self, path: str) -> str | None:
        """Digest of the document when it was indexed; None if it is not indexed."""
        with self._database.read() as connection:
            query = "SELECT digest FROM documents WHERE path = ?"
            row = connection.execute(query, (encodable(path),)).fetchone()
        return row and row[0]

    def paths_with(self, text: str) -> list[str]:
        """Paths of the documents that have a passage in which this text stands as it is."""
        query = """SELECT DISTINCT path FROM documents
            JOIN passages ON documents.id = passages.document
            WHERE instr(passages.text, ?) > 0 ORDER BY path"""
        with self._database.read() as connection:
            return [path for (path,) in connection.execute(query, (encodable(text),))]

    def all_paths(self) -> list[str]:
        """Paths of all documents."""
        with self._database.read() as connection:
            query = "SELECT path FROM documents ORDER BY path"
            return [path for (path,) in connection.execute(query)]

    def counts(self, chunk_size: int) -> Counts:
        """How much it holds, with chunks of at most ``chunk_size`` tokens."""
        query = """SELECT (SELECT count(*) FROM documents), count(*),
            ifnull(sum((tokens + :k - 1) / :k), 0), ifnull(sum(tokens), 0) FROM passages"""
        with self._database.read() as connection:
            return Counts(*connection.execute(query, {"k": chunk_size}).fetchone())

    def add(self, document: Document, passages: Iterable[PassageRow]) -> None:
        """Writes a document that is not in the catalog, with its passages in order."""
        metadata = json.dumps(document.metadata)
        with self._database.write() as connection:
            number = connection.execute(
                "INSERT INTO documents (path, digest, metadata) VALUES (?, ?, ?)",
                (encodable(document.path), document.digest, metadata),
            ).lastrowid
            connection.executemany(
                "INSERT INTO passages (document, key, text, tokens, vector, page) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                ((number, *p[:3], p.vector.astype("<f4").tobytes(), p.page) for p in passages),
            )

    def remove(self, path: str) -> bool:
        """Removes a document and discards the keys of its passages.

        Returns:
            Whether there was such a document.
        """
        with self._database.write() as connection:
            query = "SELECT id FROM documents WHERE path = ?"
            row = connection.execute(query, (encodable(path),)).fetchone()
            if row is None:
                return False
            connection.execute(
                "INSERT OR IGNORE INTO discarded SELECT key FROM passages WHERE document = ?", row
            )
            removed = connection.execute("DELETE FROM passages WHERE document = ?", row).rowcount
            connection.execute("DELETE FROM documents WHERE id = ?", row)
            if removed:
                connection.execute(
                    "INSERT INTO facts VALUES ('removals', 1) "
                    "ON CONFLICT (name) DO UPDATE SET value = value + 1"
                )
        return True

    # -- which chunk vectors the store has to keep ----------------------------------------------

    def await_passages(self, keys: Iterable[str]) -> None:
        """Records keys whose chunk vectors are about to be stored, before their passages are."""
        now = time.time()
        with self._database.write() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO awaited VALUES (?, ?)", ((key, now) for key in keys)
            )

    def settle(self, keys: Iterable[str]) -> None:
        """Forgets that passages of these keys were awaited."""
        with self._database.write() as connection:
            connection.executemany("DELETE FROM awaited WHERE key = ?", ((key,) for key in keys))

    def discard_overdue(self, seconds: float) -> None:
        """Discards the keys whose passages have been awaited for longer than this."""
        before = (time.time() - seconds,)
        with self._database.write() as connection:
            query = "INSERT OR IGNORE INTO discarded SELECT key FROM awaited WHERE since < ?"
            connection.execute(query, before)
            connection.execute("DELETE FROM awaited WHERE since < ?", before)

    def discarded(self, after: int, limit: int) -> dict[int, str]:
        """Keys of removed or never finished passages, which may be unneeded.

        Args:
            after: Row number to go on from; 0 begins.
            limit: Maximum number of keys.

        Returns:
            Row number -> key, ascending.
        """
        with self._database.read() as connection:
            query = "SELECT rowid, key FROM discarded WHERE rowid > ? ORDER BY rowid LIMIT ?"
            return dict(connection.execute(query, (after, limit)).fetchall())

    def unused(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that no passage has and that are not awaited."""
        query = """SELECT 1 FROM passages WHERE key = :key
            UNION ALL SELECT 1 FROM awaited WHERE key = :key"""
        with self._database.read() as connection:
            return [key for key in keys if not connection.execute(query, {"key": key}).fetchone()]

    def forget_discarded(self, rows: Iterable[int]) -> None:
        """Forgets what was discarded, by row: chunk vectors are gone, or still needed."""
        with self._database.write() as connection:
            connection.executemany("DELETE FROM discarded WHERE rowid = ?", ((r,) for r in rows))

    # -- reading --------------------------------------------------------------------------------

    def passages(self, ids: Sequence[int]) -> dict[int, IndexedPassage]:
        """Passages by id; those that are gone or damaged are missing."""
        query = f"""SELECT key, text, path, metadata, {self._page} FROM passages
            JOIN documents ON documents.id = passages.document WHERE passages.id = ?"""
        with self._database.read() as connection:
            rows = {number: connection.execute(query, (number,)).fetchone() for number in ids}
        passages = {}
        found = ((n, row) for n, row in rows.items() if row)
        for number, (key, text, path, metadata, page) in found:
            try:
                if passage_key(text, self._fingerprint) != key:
                    raise ValueError("text and key do not belong together")
                facts = parse_json(metadata)
                if not isinstance(facts, dict):
                    raise TypeError("the metadata is not an object")
                known = page if isinstance(page, int) else None
                passages[number] = IndexedPassage(key, text, path, facts, known)
            except (TypeError, ValueError) as error:
                logger.warning("%s: passage %d is damaged: %s", self._database.path, number, error)
        return passages

    def document_passages(self, path: str) -> list[tuple[str, int]]:
        """Text and number of tokens of each passage of a document, in order."""
        query = """SELECT text, tokens FROM passages
            JOIN documents ON documents.id = passages.document
            WHERE path = ? ORDER BY passages.id"""
        with self._database.read() as connection:
            return connection.execute(query, (encodable(path),)).fetchall()

    def documents_with(self, key: str) -> list[tuple[str, dict[str, Any]]]:
        """Path and metadata of each document that has the passage with this key."""
        query = """SELECT DISTINCT path, metadata FROM passages
            JOIN documents ON documents.id = passages.document WHERE key = ? ORDER BY path"""
        with self._database.read() as connection:
            rows = connection.execute(query, (key,)).fetchall()
        documents = []
        for path, metadata in rows:
            try:
                facts = parse_json(metadata)
            except (RecursionError, TypeError, ValueError):  # damaged
                continue
            documents.append((path, facts if isinstance(facts, dict) else {}))
        return documents

    def position(self) -> Position:
        """The state of the passages."""
        query = """SELECT
            ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'passages'), 0),
            ifnull((SELECT value FROM facts WHERE name = 'removals'), 0)"""
        with self._database.read() as connection:
            return Position(*connection.execute(query).fetchone())

    def vectors(self, after: int, until: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields search vectors of the passages with after < id <= until, page by page.

        Yields:
            Ids, shape (n,), int64, ascending, and vectors, shape (n, d), float32.

        Raises:
            StoreError: If a vector is damaged.
        """
        query = "SELECT id, vector FROM passages WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        while True:
            with self._database.read() as connection:
                page = connection.execute(query, (after, until, _ROWS_PER_PAGE)).fetchall()
            if not page:
                return
            ids, blobs = zip(*page, strict=True)
            try:
                vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(ids), -1)
            except (TypeError, ValueError):
                vectors = np.full((1, 1), np.nan)
            if not np.isfinite(vectors).all():
                msg = f"{self._database.path} holds damaged passages; index the documents again"
                raise StoreError(msg)
            yield np.array(ids, dtype=np.int64), vectors
            after = ids[-1]

    def fact(self, name: str) -> Any:
        """The fact stored under a name; None if there is none."""
        with self._database.read() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row and row[0]

    def set_fact(self, name: str, value: str | int) -> None:
        """Stores a fact under a name."""
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
