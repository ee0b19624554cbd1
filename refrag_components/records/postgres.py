"""Records in PostgreSQL with pgvector."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.records.base import (
    CANDIDATES,
    FoundRecord,
    OfTenant,
    Record,
    found_record,
    question,
)
from refrag_components.stores.common.rows import pack_row, unpack_row

try:
    import psycopg
    from psycopg import sql
    from psycopg.adapt import Dumper
    from psycopg.pq import Format, TransactionStatus
    from psycopg.types.json import Jsonb
    from psycopg_pool import ConnectionPool
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "PostgresRecords needs psycopg and its pool; "
        'install them with: pip install "refrag-components[postgres]"'
    ) from error

__all__ = ["PostgresRecords"]

_LONGEST_NAME = 63  # bytes, of PostgreSQL
_BIT = 1560  # the number of PostgreSQL's type
_CREATION = 0x52465248  # an advisory lock: those who create a table at the same time take turns

_EXTENSION = """
SELECT nspname, pg_type.oid FROM pg_extension
JOIN pg_namespace ON pg_namespace.oid = extnamespace
JOIN pg_type ON typname = 'halfvec' AND typnamespace = extnamespace
WHERE extname = 'vector'
"""

# An index that is shared by tenants is read on until there are enough of the right one. It looks at
# no fewer neighbours than are asked for; fewer would cost recall.
_SETTINGS = """
SELECT set_config('refrag.tenant', %s, true),
    set_config('hnsw.iterative_scan', 'strict_order', true),
    set_config('hnsw.ef_search', %s, true)
"""
_NEIGHBOURS = range(40, 1000 + 1)  # what pgvector looks at if nobody says otherwise, and at most

# Keys are compared by code point, as in Python. Compression does not make vectors smaller, so the
# server need not try.
_CREATE = (
    """
    CREATE TABLE {table} (
        tenant text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        text text NOT NULL,
        metadata jsonb NOT NULL,
        passage {ns}.halfvec({width}) NOT NULL,
        chunks bytea NOT NULL,
        tokens {token}[],
        PRIMARY KEY (tenant, key)
    )
    """,
    "ALTER TABLE {table} ALTER chunks SET STORAGE EXTERNAL, ALTER tokens SET STORAGE EXTERNAL",
    "CREATE INDEX ON {table} USING hnsw (passage {ns}.halfvec_ip_ops)",
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "CREATE POLICY refrag_tenant ON {table} "
    "USING (tenant = current_setting('refrag.tenant', true))",
)

_NEAREST = """
SELECT key, text, metadata, chunks, -(passage OPERATOR({ns}.<#>) %(vector)s::{ns}.halfvec)
FROM {table} WHERE tenant = %(tenant)s
ORDER BY passage OPERATOR({ns}.<#>) %(vector)s::{ns}.halfvec LIMIT %(k)s
"""

# The candidates are fixed first, so that no other passage's tokens are read.
_LATE = """
WITH candidates AS MATERIALIZED (
    SELECT key, text, metadata, chunks, tokens FROM {table}
    WHERE tenant = %(tenant)s
    ORDER BY passage OPERATOR({ns}.<#>) %(vector)s::{ns}.halfvec LIMIT %(candidates)s
)
SELECT key, text, metadata, chunks, score FROM candidates CROSS JOIN LATERAL (
    SELECT avg(best) AS score FROM (
        SELECT max({similarity}) AS best
        FROM unnest(%(tokens)s::{token}[]) WITH ORDINALITY AS asked(q, n)
        CROSS JOIN unnest(tokens) AS t GROUP BY n
    ) AS each
) AS all_of_them
WHERE tokens IS NOT NULL ORDER BY score DESC LIMIT %(k)s
"""


class PostgresRecords(OfTenant):
    """Keeps records in a table of the user's PostgreSQL, whose database needs pgvector 0.8.

    A record is a row: "passage" is a ``halfvec`` with an HNSW index, "chunks" the serialised chunk
    vectors with a checksum, "tokens" an array of ``halfvec`` (or ``bit``). A search is one query,
    also by late interaction, and travels with what frames it in one round trip.

    Tenants are rows under row-level security: the policy shows and takes only those whose tenant
    is the setting ``refrag.tenant``, which every transaction here sets for itself. Superusers and
    roles with BYPASSRLS are not bound by policies; for them, the queries name the tenant too.

    Args:
        connection: The user's pool, or the user's own connection, whose transaction, if one is
            open, is joined; it stays open.
        table: The table, created with the first records if missing.
        schema: Its schema, created likewise; by default the first in the server's search path.
        tenant: Whose records are written and read.
        quantised: Whether token vectors are stored as one bit per value, 16 times smaller; as the
            table was created.

    Raises:
        StoreError: If a name is longer than PostgreSQL's names are.
    """

    def __init__(
        self,
        connection: ConnectionPool[Any] | psycopg.Connection[Any],
        *,
        table: str = "refrag_records",
        schema: str | None = None,
        tenant: str = "",
        quantised: bool = False,
    ) -> None:
        for part in (table,) if schema is None else (schema, table):
            if not 1 <= len(part.encode()) <= _LONGEST_NAME:
                msg = f"{part!r} is not a name of 1 to {_LONGEST_NAME} bytes; choose a shorter one"
                raise StoreError(msg)
        self._source = connection
        self._schema = schema
        self._table = sql.Identifier(schema, table) if schema else sql.Identifier(table)
        self._label = f"PostgreSQL table {f'{schema}.' if schema else ''}{table}"
        self._quantised = quantised
        self._pgvector = _Extension()
        self._turn = threading.Lock()  # a connection of the user's is one for all threads
        self.tenant = tenant

    def put(self, records: Sequence[Record]) -> None:
        """Stores records in one transaction."""
        rows = {record.key: record for record in records}
        chunks = {key: pack_row(key, rows[key].chunk_vectors, "float16") for key in rows}
        if not rows:
            return
        with self._transaction() as cursor:
            width = len(records[0].vector)
            self._create_if_missing(cursor, width)
            statement = (
                "INSERT INTO {table} (tenant, key, text, metadata, passage, chunks, tokens) "
                "VALUES (%s, %s, %s, %s, %s::{ns}.halfvec, %s, %s::{token}[]) "
                "ON CONFLICT (tenant, key) DO UPDATE SET text = EXCLUDED.text, "
                "metadata = EXCLUDED.metadata, passage = EXCLUDED.passage, "
                "chunks = EXCLUDED.chunks, tokens = EXCLUDED.tokens"
            )
            # In order, so that two writers of the same keys wait for each other only once.
            values = [
                (
                    self.tenant,
                    key,
                    rows[key].text,
                    Jsonb(dict(rows[key].metadata)),
                    _vector(rows[key].vector),
                    chunks[key],
                    self._tokens(rows[key].token_vectors),
                )
                for key in sorted(rows)
            ]
            cursor.executemany(self._sql(statement, width), values)

    def search(
        self,
        vector: np.ndarray,
        token_vectors: np.ndarray | None = None,
        *,
        k: int = 10,
        candidates: int = CANDIDATES,
    ) -> list[FoundRecord]:
        """Finds passages, with their chunk vectors, by one query."""
        vector, tokens = question(vector, token_vectors)
        values = {"tenant": self.tenant, "k": k, "vector": _vector(vector)}
        if tokens is not None:
            values |= {"candidates": candidates, "tokens": self._tokens(tokens)}
        try:
            with self._transaction(k if tokens is None else candidates) as cursor:
                query = _NEAREST if tokens is None else _LATE
                cursor.execute(self._sql(query, len(vector)), values)
            rows = cursor.fetchall()
        except StoreError as error:
            if isinstance(error.__cause__, psycopg.errors.UndefinedTable):
                return []
            raise
        return [self._found(*row) for row in rows]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        statement = "DELETE FROM {table} WHERE tenant = %s AND key = ANY(%s)"
        try:
            with self._transaction() as cursor:
                cursor.execute(self._sql(statement, 1), [self.tenant, sorted(keys)])
        except StoreError as error:
            if not isinstance(error.__cause__, psycopg.errors.UndefinedTable):
                raise

    def _found(
        self, key: str, text: str, metadata: dict[str, Any], chunks: bytes, score: float
    ) -> FoundRecord:
        return found_record(
            self._label,
            text=text,
            score=float(score),
            key=key,
            metadata=metadata,
            read=lambda key: unpack_row(key, chunks),
        )

    def _tokens(self, rows: np.ndarray | None) -> _Binary | None:
        if rows is None:
            return None
        if self._quantised:
            return _array(_BIT, _bits(rows))
        return _array(self._pgvector.halfvec, _halves(rows))

    def _sql(self, statement: str, width: int) -> sql.Composed:
        """A statement for vectors of a width, with all names and types in place."""
        schema = sql.Identifier(self._pgvector.schema)
        distance = sql.SQL("(t OPERATOR({}.{}) q)").format(
            schema, sql.SQL("<~>" if self._quantised else "<#>")
        )
        if self._quantised:
            token: sql.Composable = sql.SQL("bit({})").format(sql.Literal(width))
            similarity = sql.SQL("1 - 2 * {} / {}").format(distance, sql.Literal(float(width)))
        else:
            token = sql.SQL("{}.halfvec").format(schema)
            similarity = sql.SQL("-{}").format(distance)
        return sql.SQL(statement).format(
            table=self._table,
            ns=schema,
            token=token,
            similarity=similarity,
            width=sql.Literal(width),
        )

    @contextmanager
    def _transaction(self, nearest: int = 0) -> Iterator[psycopg.Cursor[Any]]:
        """Yields a cursor in a transaction of the tenant's, for a search that needs so many.

        Statements are sent without waiting for those before them. Unless a result is asked for in
        between, or the user has a transaction open, everything travels in one round trip.
        """
        with ExitStack() as stack:
            stack.enter_context(self._errors())
            if isinstance(self._source, psycopg.Connection):
                stack.enter_context(self._turn)
                connection = self._source
            else:
                connection = stack.enter_context(self._source.connection())
            self._look_up(connection)
            if connection.info.transaction_status is TransactionStatus.IDLE:
                stack.enter_context(_one_trip(connection))
            else:
                stack.enter_context(connection.transaction())
            neighbours = min(max(nearest, _NEIGHBOURS[0]), _NEIGHBOURS[-1])
            connection.execute(_SETTINGS, [self.tenant, str(neighbours)])
            cursor = connection.cursor(binary=True)
            cursor.adapters.register_dumper(_Binary, _BinaryDumper)
            yield cursor

    def _look_up(self, connection: psycopg.Connection[Any]) -> None:
        """Finds out once where the extension is."""
        if self._pgvector.halfvec:
            return
        with connection.transaction():
            row = connection.execute(_EXTENSION).fetchone()
        if row is None:
            msg = (
                f"{self._label}: pgvector is missing in this database; run CREATE EXTENSION vector"
            )
            raise StoreError(msg)
        self._pgvector.schema, self._pgvector.halfvec = row

    def _create_if_missing(self, cursor: psycopg.Cursor[Any], width: int) -> None:
        """Creates the table; if it is there, no right to create one is needed."""
        name = self._table.as_string(cursor)
        if cursor.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,):
            return
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATION])
        if cursor.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,):
            return
        if self._schema:
            schema = sql.Identifier(self._schema)
            cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        for statement in _CREATE:
            cursor.execute(self._sql(statement, width))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            msg = f"{self._label}: {error}; check the server, the table and the user's rights"
            raise StoreError(msg) from error


@contextmanager
def _one_trip(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction whose statements, with its beginning and its end, are sent together."""
    try:
        with connection.pipeline():
            if connection.autocommit:  # else the client sends it
                connection.execute("BEGIN")
            yield
            connection.execute("COMMIT")  # commit() would wait for the server once more
    except BaseException:
        connection.rollback()
        raise


@dataclass
class _Extension:
    """Where pgvector is in the database.

    Attributes:
        schema: Of the extension.
        halfvec: The number of its type; 0 until it was looked up.
    """

    schema: str = ""
    halfvec: int = 0


@dataclass(frozen=True)
class _Binary:
    """A value in PostgreSQL's binary form, of the type to which the statement casts it."""

    data: bytes


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Binary) -> bytes:
        return obj.data


def _vector(row: np.ndarray) -> _Binary:
    return _Binary(_halves(row[None])["value"].tobytes())


def _halves(rows: np.ndarray) -> np.ndarray:
    """Rows as elements of an array of ``halfvec``."""
    value = np.dtype([("width", ">i2"), ("unused", ">i2"), ("values", ">f2", rows.shape[1])])
    elements = np.zeros(len(rows), dtype=[("size", ">i4"), ("value", value)])
    elements["size"] = value.itemsize
    elements["value"]["width"] = rows.shape[1]
    elements["value"]["values"] = rows
    return elements


def _bits(rows: np.ndarray) -> np.ndarray:
    """The signs of rows as elements of an array of ``bit``."""
    packed = np.packbits(rows > 0, axis=1)
    value = np.dtype([("width", ">i4"), ("bits", "u1", packed.shape[1])])
    elements = np.zeros(len(rows), dtype=[("size", ">i4"), ("value", value)])
    elements["size"] = value.itemsize
    elements["value"]["width"] = rows.shape[1]
    elements["value"]["bits"] = packed
    return elements


def _array(element_type: int, elements: np.ndarray) -> _Binary:
    """One dimension, no nulls, the elements' type; then their number and that of the first."""
    return _Binary(struct.pack(">iiIii", 1, 0, element_type, len(elements), 1) + elements.tobytes())
