from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from refrag_components.stores.qdrant import QdrantStore
from tests.stores.contract import DatabaseContract


@pytest.fixture(params=["memory", "path"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantClient]:
    memory = request.param == "memory"
    client = QdrantClient(":memory:") if memory else QdrantClient(path=str(tmp_path / "qdrant"))
    yield client
    client.close()


class TestQdrantStore(DatabaseContract):
    @pytest.fixture
    def store(self, client: QdrantClient) -> QdrantStore:
        return QdrantStore(client)

    @pytest.fixture
    def tenants(self, client: QdrantClient) -> tuple[QdrantStore, QdrantStore]:
        return QdrantStore(client, collection="one"), QdrantStore(client, collection="two")
