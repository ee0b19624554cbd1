from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from refrag_components.exceptions import StoreError
from refrag_components.records.postgres import PostgresRecords
from tests.records.contract import WIDTH, RecordContract, record, texts


@pytest.fixture
def database(postgres: str) -> str:
    """A schema of its own in a database with pgvector."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    return postgres


@pytest.fixture
def pool(database: str) -> Iterator[ConnectionPool[Any]]:
    with ConnectionPool(database, min_size=1, max_size=4, open=True) as pool:
        yield pool


class TestPostgresRecords(RecordContract):
    @pytest.fixture(params=["a pool", "a connection"])
    def records(
        self, request: pytest.FixtureRequest, database: str, pool: ConnectionPool[Any]
    ) -> Iterator[PostgresRecords]:
        if request.param == "a pool":
            yield PostgresRecords(pool)
            return
        with psycopg.connect(database, autocommit=True) as connection:
            yield PostgresRecords(connection)

    @pytest.fixture(
        params=["substr(chunks, 1, 40)", "''", "set_byte(chunks, 70, 1)", "chunks || 'x'"]
    )
    def damage(self, request: pytest.FixtureRequest, database: str) -> Callable[[], object]:
        return lambda: run(database, f"UPDATE refrag_records SET chunks = {request.param}")


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


# -- tenants ------------------------------------------------------------------------------------


@pytest.fixture
def as_user(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of a user who is bound by policies, as an application's should be."""
    name = run(database, "SELECT current_schema()")[0][0]
    run(
        database,
        f"CREATE ROLE user_{name} LOGIN; GRANT USAGE, CREATE ON SCHEMA {name} TO user_{name}",
    )
    url = database.replace("//postgres:@", f"//user_{name}@")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_the_database_shows_a_tenant_its_own_rows_whatever_is_asked(
    as_user: psycopg.Connection[Any],
) -> None:
    records = PostgresRecords(as_user)
    records.for_tenant("a").put([record(1)])
    records.for_tenant("b").put([record(2)])
    count = "SELECT count(*) FROM refrag_records"
    assert as_user.execute(count).fetchone() == (0,)  # also for the owner of the table
    as_user.execute("SET refrag.tenant = 'a'")
    assert as_user.execute("SELECT text FROM refrag_records").fetchall() == [("passage 1",)]
    assert as_user.execute("DELETE FROM refrag_records WHERE tenant = 'b'").rowcount == 0
    assert as_user.execute("UPDATE refrag_records SET text = 'x' WHERE tenant='b'").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        as_user.execute("UPDATE refrag_records SET tenant = 'b'")
    assert texts(records.for_tenant("b").search(np.ones(WIDTH))) == ["passage 2"]


def test_the_tenant_does_not_outlive_a_call(as_user: psycopg.Connection[Any]) -> None:
    PostgresRecords(as_user, tenant="a").put([record(1)])
    PostgresRecords(as_user, tenant="a").search(np.ones(WIDTH))
    assert as_user.execute("SELECT current_setting('refrag.tenant')").fetchone() == ("",)


# -- queries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_search_travels_in_one_round_trip(
    database: str, tmp_path: Path, autocommit: bool, late: bool
) -> None:
    tokens = record(1).token_vectors if late else None
    with psycopg.connect(database, autocommit=autocommit) as connection:
        records = PostgresRecords(connection, tenant="a")
        records.put([record(i) for i in range(5)])
        connection.execute("DEALLOCATE ALL")
        connection.commit()
        with (tmp_path / "trace").open("w") as trace:
            connection.pgconn.trace(trace.fileno())
            assert len(records.search(record(1).vector, tokens, k=2)) == 2
            connection.pgconn.untrace()
        assert connection.info.transaction_status.name == "IDLE"
    sent = [line.split("\t") for line in (tmp_path / "trace").read_text().splitlines()]
    # A client waits for the server where it asks for this message; only that which follows a BEGIN
    # of the client's own is asked for and not waited for.
    waits = [parts for parts in sent if parts[1:2] == ["B"] and parts[3] == "ReadyForQuery"]
    assert len(waits) == (1 if autocommit else 2)


def test_both_indexes_and_tenants_of_many_rows(pool: ConnectionPool[Any]) -> None:
    """A tenant with few rows among many finds all that it has, through the shared index too."""
    records = PostgresRecords(pool)
    records.for_tenant("large").put([record(i, tokens=0) for i in range(300)])
    records.for_tenant("small").put([record(i, tokens=0) for i in range(300, 310)])
    with pool.connection() as connection:
        connection.execute("ANALYZE refrag_records")
    with pool.connection() as connection:
        connection.execute("SET enable_seqscan = off; SET enable_sort = off")
        connection.commit()
        found = PostgresRecords(connection, tenant="small").search(np.ones(WIDTH), k=10)
        connection.execute("RESET ALL")
    assert len(found) == 10


def test_token_vectors_may_be_kept_as_bits(pool: ConnectionPool[Any], database: str) -> None:
    records = PostgresRecords(pool, table="bits", quantised=True)
    stored = [record(i, tokens=4) for i in range(10)]
    records.put(stored)
    asked = np.random.default_rng(1).standard_normal((3, WIDTH))
    found = records.search(np.ones(WIDTH), asked, k=10)
    signs = {
        each.text: np.where(each.token_vectors > 0, 1.0, -1.0)  # type: ignore[operator]
        for each in stored
    }
    expected = {
        text: float((np.where(asked > 0, 1.0, -1.0) @ rows.T / WIDTH).max(axis=1).mean())
        for text, rows in signs.items()
    }
    assert [each.score for each in found] == pytest.approx([expected[each.text] for each in found])
    assert [each.score for each in found] == sorted(expected.values(), reverse=True)
    (size,) = run(database, "SELECT max(length(tokens[1])) FROM bits")[0]
    assert size == WIDTH


def test_a_schema_and_a_table_can_be_named(pool: ConnectionPool[Any], database: str) -> None:
    records = PostgresRecords(pool, schema="of a tenant", table='records"')
    records.put([record(1)])
    assert texts(records.search(record(1).vector)) == ["passage 1"]
    assert run(database, 'SELECT text FROM "of a tenant"."records"""') == [("passage 1",)]
    run(database, 'DROP SCHEMA "of a tenant" CASCADE')


def test_the_users_transaction_is_joined(database: str) -> None:
    with psycopg.connect(database) as connection:
        records = PostgresRecords(connection)
        records.put([record(1)])
        connection.execute("SELECT 1")  # begins a transaction
        records.put([record(2)])
        assert len(records.search(np.ones(WIDTH))) == 2
        connection.rollback()
        assert texts(records.search(np.ones(WIDTH))) == ["passage 1"]


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_missing_extension_is_named(pool: ConnectionPool[Any], database: str) -> None:
    with pool.connection() as connection, connection.transaction(force_rollback=True):
        connection.execute("DROP EXTENSION vector CASCADE")
        with pytest.raises(StoreError, match="CREATE EXTENSION vector"):
            PostgresRecords(connection).put([record(1)])


def test_a_table_of_another_kind_is_named(pool: ConnectionPool[Any], database: str) -> None:
    run(database, "CREATE TABLE refrag_records (text text)")
    with pytest.raises(StoreError, match=r"(?s)table refrag_records: .*check"):
        PostgresRecords(pool).put([record(1)])
    with pytest.raises(StoreError, match=r"(?s)table refrag_records: .*check"):
        PostgresRecords(pool).search(record(1).vector)


def test_a_name_that_the_server_would_cut_is_refused(pool: ConnectionPool[Any]) -> None:
    with pytest.raises(StoreError, match="shorter"):
        PostgresRecords(pool, table="t" * 64)


def test_a_text_that_the_server_refuses_leaves_nothing_behind(pool: ConnectionPool[Any]) -> None:
    records = PostgresRecords(pool)
    records.put([record(1)])
    with pytest.raises(StoreError, match="NUL"):
        records.put([record(2), record(3, text="a\0b")])
    assert texts(records.search(np.ones(WIDTH))) == ["passage 1"]
