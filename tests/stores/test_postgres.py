from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from refrag_components.exceptions import StoreError
from refrag_components.stores import open_store
from refrag_components.stores.common.rows import unpack_row
from refrag_components.stores.postgres import PostgresStore
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import check_kill, check_second_process, check_several_writers


@pytest.fixture
def postgres_store(postgres: str) -> Iterator[PostgresStore]:
    with PostgresStore(postgres) as store:
        yield store


class TestPostgresStore(DatabaseContract):
    ascending = True

    @pytest.fixture
    def store(self, postgres_store: PostgresStore) -> PostgresStore:
        return postgres_store

    @pytest.fixture
    def tenants(self, postgres: str) -> Iterator[tuple[PostgresStore, PostgresStore]]:
        with (
            PostgresStore(postgres, table="one") as one,
            PostgresStore(postgres, table="two") as two,
        ):
            yield one, two

    @pytest.fixture
    def urls(self, postgres: str) -> tuple[str, str]:
        return f"{postgres}&table=one", postgres

    @pytest.fixture(
        params=[
            "substr(value, 1, 40)",
            "''",
            "set_byte(value, 70, 1)",
            "(SELECT value FROM refrag_chunk_vectors WHERE key = 'b')",
        ]
    )
    def damage(self, request: pytest.FixtureRequest, postgres: str) -> Callable[[], object]:
        statement = f"UPDATE refrag_chunk_vectors SET value = {request.param} WHERE key = 'a'"
        return lambda: run(postgres, statement)


def run(url: str, statement: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def test_a_key_that_the_server_refuses_leaves_nothing_behind(
    postgres_store: PostgresStore,
) -> None:
    with pytest.raises(StoreError, match="NUL"):
        postgres_store.mset([("a", make(1)), ("b\0", make(2))])
    assert list(postgres_store.yield_keys()) == []


# -- connections --------------------------------------------------------------------------------


def test_a_schema_and_a_table_can_be_named(postgres: str) -> None:
    url = f"{postgres}&schema=tenant%20a&table=vectors%22"
    with open_store(url) as store:
        store.mset([("a", make(1))])
    with PostgresStore(postgres, schema="tenant a", table='vectors"') as store:
        assert store.mget(["a"]) == [make(1)]
    assert run(postgres, 'SELECT key FROM "tenant a"."vectors"""') == [("a",)]
    run(postgres, 'DROP SCHEMA "tenant a" CASCADE')


def test_the_users_pool_stays_open(postgres: str) -> None:
    with ConnectionPool(postgres, min_size=1, open=True) as pool:
        with PostgresStore(pool) as store:
            store.mset([("a", make(1))])
        with PostgresStore(pool) as store:
            assert store.mget(["a"]) == [make(1)]


def test_the_users_transaction_is_joined(postgres: str) -> None:
    with psycopg.connect(postgres) as connection, PostgresStore(connection) as store:
        connection.commit()
        store.mset([("kept", make(1))])
        connection.execute("SELECT 1")  # begins a transaction
        store.mset([("gone", make(2))])
        assert store.mget(["gone"]) == [make(2)]
        connection.rollback()
        assert list(store.yield_keys()) == ["kept"]


def test_a_user_who_may_not_make_tables_uses_the_one_that_is_there(postgres: str) -> None:
    PostgresStore(postgres).close()
    schema = run(postgres, "SELECT current_schema()")[0][0]
    run(
        postgres,
        f"CREATE ROLE reader_{schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO reader_{schema}; "
        f"GRANT SELECT ON refrag_chunk_vectors TO reader_{schema}",
    )
    with PostgresStore(postgres.replace("//postgres:@", f"//reader_{schema}@")) as store:
        assert store.mget(["a"]) == [None]
        with pytest.raises(StoreError, match=r"permission denied.*rights"):
            store.mset([("a", make(1))])


def test_survives_a_kill_in_the_middle_of_writing(postgres: str) -> None:
    check_kill(postgres)


def test_several_processes_make_and_write_one_table(postgres: str) -> None:
    check_several_writers(postgres, processes=3, writes=20)


def test_reads_while_another_process_writes(postgres: str) -> None:
    check_second_process(postgres)


def test_one_query_finds_passages_by_pgvector_and_their_chunk_vectors(postgres: str) -> None:
    with PostgresStore(postgres) as store:
        store.mset((key(i), make(i)) for i in range(3))
    run(postgres, "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    run(postgres, "CREATE TABLE passages (text text, refrag_key text, embedding public.vector(2))")
    for i in range(3):
        row = f"('passage {i}', '{key(i)}', '[{i}, 1]')"
        run(postgres, f"INSERT INTO passages VALUES {row}")
    rows = run(
        postgres,
        "SELECT text, key, value FROM passages JOIN refrag_chunk_vectors ON key = refrag_key "
        "ORDER BY embedding OPERATOR(public.<->) '[2, 1]' LIMIT 2",
    )
    found = [(text, unpack_row(own_key, value)) for text, own_key, value in rows]
    assert found == [("passage 2", make(2)), ("passage 1", make(1))]


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@127.0.0.1:1/database",
        "postgresql://user@127.0.0.1:1/database?password=s3cret",
        "host=127.0.0.1 port=1 password=s3cret",
        "host=127.0.0.1 s3cret",
        "postgresql://user:s3cret@127.0.0.1/database?unknown=s3cret",
    ],
)
def test_errors_do_not_show_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
        PostgresStore(url)
    assert "s3cret" not in str(caught.value) + caplog.text
    assert "check the server" in str(caught.value) or "connection string" in str(caught.value)
