"""Chunk vectors in PostgreSQL."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.stores.common.rows import RemoteStore, keys_in_order, pack_row, unpack_row
from refrag_components.stores.common.url import split_options
from refrag_components.vectors import ChunkVectors, Codec

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict
    from psycopg_pool import ConnectionPool
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "PostgresStore needs psycopg and its pool; "
        'install them with: pip install "refrag-components[postgres]"'
    ) from error

__all__ = ["PostgresStore"]

_LONGEST_NAME = 63  # bytes, of PostgreSQL
_LONGER = 12  # as for every call but reading, see ``RemoteStore``
_CREATION = 0x52465247  # an advisory lock: those who create a table at the same time take turns
_KEYS_PER_PAGE = 1000


class PostgresStore(RemoteStore):
    """Keeps chunk vectors in a table of the user's PostgreSQL, for threads and processes.

    A row holds the serialised value as ``bytea``, not ``halfvec[]``: it keeps every codec, carries
    a checksum and needs no extension in the database. Every ``mset`` is one transaction. Tenants
    that must not see each other get one table or one schema each.

    Args:
        connection: A connection string or URL, for which a pool is made; or the user's own pool;
            or the user's own connection, whose transaction, if one is open, is joined. The
            password may be left to ``PGPASSWORD`` or ``~/.pgpass``.
        schema: Schema of the table, created if missing; by default the first in the server's search
            path.
        table: The table, created if missing.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.

    Raises:
        StoreError: If the server cannot be reached or the table cannot be created, or a name is
            longer than PostgreSQL's names are.
    """

    def __init__(
        self,
        connection: str | ConnectionPool[Any] | psycopg.Connection[Any],
        *,
        schema: str | None = None,
        table: str = "refrag_chunk_vectors",
        codec: Codec = "float16",
        timeout: float = 5.0,
    ) -> None:
        name = f"{schema}.{table}" if schema else table
        super().__init__(f"PostgreSQL table {name}", codec, timeout)
        for part in (table,) if schema is None else (schema, table):
            if not 1 <= len(part.encode()) <= _LONGEST_NAME:
                msg = (
                    f"{part!r} takes {len(part.encode())} bytes, and PostgreSQL's names 1 to "
                    f"{_LONGEST_NAME}: it would cut the rest off, and two tenants could share a "
                    "table; choose a shorter one"
                )
                raise StoreError(msg)
        self._schema = schema
        self._table = sql.Identifier(schema, table) if schema else sql.Identifier(table)
        self._lock = threading.Lock()
        self._own_pool: ConnectionPool[Any] | None = None
        if isinstance(connection, str):
            conninfo = connection
            self._waited(lambda: self._create_table_with(conninfo))
            # Not created with the pool, which would retry for long and not say why it failed.
            self._own_pool = connection = ConnectionPool(
                conninfo,
                min_size=0,
                max_size=8,
                kwargs=self._limits(conninfo),
                timeout=_LONGER * self.timeout,
                check=ConnectionPool.check_connection,
                configure=self._limit_statements,
                open=True,
            )
            self._source: ConnectionPool[Any] | psycopg.Connection[Any] = connection
        else:
            self._source = connection
            self._waited(self._create_table_if_missing)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``postgresql://user@host/database``.

        Options: ``schema``, ``table``, ``codec``, ``timeout``.

        The rest of the URL goes to the server's client, see PostgreSQL's connection URIs. The
        password may be left to the environment variable ``PGPASSWORD``.
        """
        conninfo, options = split_options(url, "schema", "table", "codec", "timeout")
        return cls(conninfo, **options)

    def close(self) -> None:
        """Closes the connections that were opened here, not those that were passed."""
        if self._own_pool is not None:
            self._own_pool.close()

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        query = self._sql("SELECT key, value FROM {table} WHERE key = ANY(%s)")
        with self._transaction() as connection:
            rows = dict(connection.execute(query, [list(keys)], binary=True).fetchall())
        values = {key: self._read(key, unpack_row, data) for key, data in rows.items()}
        return [values.get(key) for key in keys]

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        rows = {key: pack_row(key, value, self.codec) for key, value in pairs}
        query = self._sql(
            "INSERT INTO {table} VALUES (%s, %s) "
            "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        )
        with self._transaction() as connection, connection.cursor() as cursor:
            # In order, so that two writers of the same keys wait for each other only once.
            cursor.executemany(query, sorted(rows.items()))

    def _mdelete(self, keys: Sequence[str]) -> None:
        query = self._sql("DELETE FROM {table} WHERE key = ANY(%s)")
        with self._transaction() as connection:
            connection.execute(query, [sorted(keys)])

    def scrub(self) -> None:
        """Frees the room of deleted rows (VACUUM), unless the connection is the user's own.

        What was deleted may stand in the server's log and in backups until these are rotated.
        """
        if self._own_pool is not None:
            self._waited(lambda: self._vacuum(self._own_pool))

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        return keys_in_order(self._page, prefix or "", _KEYS_PER_PAGE)

    def _page(self, comparison: str, key: str, size: int) -> list[str]:
        query = f"SELECT key FROM {{table}} WHERE key {comparison} %s ORDER BY key LIMIT %s"
        with self._transaction() as connection:
            return [found for (found,) in connection.execute(self._sql(query), [key, size])]

    def _vacuum(self, pool: ConnectionPool[Any] | None) -> None:
        assert pool is not None
        with self._errors(), pool.connection() as connection:
            connection.set_autocommit(True)
            try:
                connection.execute(self._sql("VACUUM {table}"))
            finally:
                connection.set_autocommit(False)

    def _sql(self, statement: str) -> sql.Composed:
        return sql.SQL(statement).format(table=self._table)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        with self._errors():
            if isinstance(self._source, psycopg.Connection):
                with self._lock, self._source.transaction():
                    yield self._source
            else:
                with self._source.connection() as connection:
                    yield connection

    def _limits(self, conninfo: str) -> dict[str, Any]:
        """Has connecting give up too, unless the connection string says when."""
        named = conninfo_to_dict(conninfo)
        return {} if "connect_timeout" in named else {"connect_timeout": math.ceil(self.timeout)}

    def _limit_statements(self, connection: psycopg.Connection[Any]) -> None:
        """Has the server end what nobody waits for any longer."""
        milliseconds = math.ceil(1000 * _LONGER * self.timeout)
        connection.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(milliseconds)))
        connection.commit()

    def _create_table_if_missing(self) -> None:
        with self._transaction() as connected:
            self._create_table(connected)

    def _create_table_with(self, conninfo: str) -> None:
        try:
            conninfo_to_dict(conninfo)
        except psycopg.Error:  # its message quotes the string
            msg = (
                "this is not a PostgreSQL connection string; it should look like "
                "postgresql://user@host/database"
            )
            raise StoreError(msg) from None
        with self._errors(), psycopg.connect(conninfo, **self._limits(conninfo)) as connection:
            self._create_table(connection)

    def _create_table(self, connection: psycopg.Connection[Any]) -> None:
        """Creates the table if it is missing; if it is there, no right to create one is needed."""
        name = self._table.as_string(connection)
        if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,):
            return
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATION])
        if self._schema:
            schema = sql.Identifier(self._schema)
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        # Keys are ordered by code point, as in Python. Compression does not make vectors smaller,
        # so the server need not try.
        connection.execute(
            self._sql(
                'CREATE TABLE IF NOT EXISTS {table} (key text COLLATE "C" PRIMARY KEY, '
                "value bytea NOT NULL)"
            )
        )
        connection.execute(self._sql("ALTER TABLE {table} ALTER value SET STORAGE EXTERNAL"))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            msg = f"{self.label}: {error}; check the server, the table and the user's rights"
            raise StoreError(msg) from error
