from __future__ import annotations

from pathlib import Path

import lancedb
import pytest

from refrag_components.stores.lancedb import LanceDBStore
from tests.stores.contract import DatabaseContract


@pytest.fixture
def database(tmp_path: Path) -> lancedb.DBConnection:
    return lancedb.connect(tmp_path / "lance")


class TestLanceDBStore(DatabaseContract):
    @pytest.fixture
    def store(self, database: lancedb.DBConnection) -> LanceDBStore:
        return LanceDBStore(database)

    @pytest.fixture
    def tenants(self, database: lancedb.DBConnection) -> tuple[LanceDBStore, LanceDBStore]:
        return LanceDBStore(database, table="one"), LanceDBStore(database, table="two")
