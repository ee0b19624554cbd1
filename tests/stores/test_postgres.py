from __future__ import annotations

from collections.abc import Iterator

import pytest

from refrag_components.stores.postgres import PostgresStore
from tests.stores.contract import DatabaseContract


@pytest.fixture
def postgres_store(postgres: str) -> Iterator[PostgresStore]:
    with PostgresStore(postgres) as store:
        yield store


class TestPostgresStore(DatabaseContract):
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
