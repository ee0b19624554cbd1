from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from refrag_components.exceptions import StoreError
from refrag_components.records.qdrant import QdrantRecords
from tests.records.contract import WIDTH, RecordContract, record
from tests.records.qdrant_server import QdrantServer
from tests.serving.running import running

NAME = "refrag_records"

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local")


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    server = QdrantServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def over_http(server: QdrantServer) -> Iterator[QdrantClient]:
    with running(server.app) as url:
        client = QdrantClient(url.removesuffix("/v1"), check_compatibility=False)
        yield client
        client.close()


class TestInTheClient(RecordContract):
    """Against the small implementation that the client brings."""

    @pytest.fixture
    def records(self, client: QdrantClient) -> QdrantRecords:
        return QdrantRecords(client)

    @pytest.fixture(params=["a value", "a vector less", "a token", "another's", "no vectors"])
    def damage(self, request: pytest.FixtureRequest, client: QdrantClient) -> Callable[[], None]:
        return lambda: damage_points(client, request.param)


class TestOverHTTP(RecordContract):
    """Against Qdrant's engine, see ``QdrantServer``."""

    @pytest.fixture
    def records(self, over_http: QdrantClient) -> QdrantRecords:
        return QdrantRecords(over_http)

    @pytest.fixture
    def damage(self, records: QdrantRecords, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        def damage() -> None:
            # All vectors alike, under the payload of each record.
            other = record(7).chunk_vectors
            points = [records._point(record(i)) for i in (1, 2)]
            for point in points:
                assert isinstance(point.vector, dict)
                point.vector["chunks"] = other.vectors.tolist()
            over = records._client
            over.upsert(NAME, points, wait=True)

        return damage

    def test_a_search_is_one_request(self, records: QdrantRecords, server: QdrantServer) -> None:
        stored = [record(i) for i in range(5)]
        records.put(stored)
        server.asked.clear()
        (found,) = records.search(stored[2].vector, k=1)
        assert found.chunk_vectors == stored[2].chunk_vectors
        (late,) = records.search(stored[2].vector, stored[2].token_vectors, k=1)
        assert late.chunk_vectors == stored[2].chunk_vectors
        assert server.asked == [f"POST /collections/{NAME}/points/query"] * 2

    def test_tenants_are_filtered_by_the_server(
        self, records: QdrantRecords, server: QdrantServer
    ) -> None:
        records.for_tenant("a").put([record(1)])
        mine = records.for_tenant("b")
        mine.search(record(1).vector, record(1).token_vectors)
        mine.delete([record(1).key])
        own = {"must": [{"key": "tenant", "match": {"value": "b"}}]}
        query = server.bodies[f"POST /collections/{NAME}/points/query"]
        assert without_nulls(query["filter"]) == own
        assert without_nulls(query["prefetch"][0]["filter"]) == own
        deletion = server.bodies[f"POST /collections/{NAME}/points/delete"]
        assert without_nulls(deletion["filter"]["must"][0]) == own["must"][0]

    def test_a_collection_is_made_for_tenants_and_without_needless_indexes(
        self, records: QdrantRecords, server: QdrantServer
    ) -> None:
        records.put([record(1)])
        vectors = server.bodies[f"PUT /collections/{NAME}"]["vectors"]
        assert without_nulls(vectors["passage"]["hnsw_config"]) == {"m": 0, "payload_m": 16}
        for name in ("chunks", "tokens"):
            assert vectors[name]["multivector_config"] == {"comparator": "max_sim"}
            assert without_nulls(vectors[name]["hnsw_config"]) == {"m": 0, "payload_m": 0}
        index = server.bodies[f"PUT /collections/{NAME}/index"]
        assert index["field_name"] == "tenant"
        assert index["field_schema"]["is_tenant"] is True


def damage_points(client: QdrantClient, kind: str) -> None:
    points = client.scroll(NAME, with_vectors=True)[0]
    parts: list[Any] = [(dict(p.vector or {}), dict(p.payload or {})) for p in points]  # type: ignore[arg-type]
    (_, first), (_, second) = parts
    if kind == "another's":
        for name in ("token_ids", "checksum", "key"):
            first[name], second[name] = second[name], first[name]
    for vectors, payload in parts:
        rows = np.array(vectors["chunks"])
        if kind == "a value":
            rows[0, 0] += 0.5
        elif kind == "a vector less":
            rows = rows[1:]
        elif kind == "a token":
            payload["token_ids"] = [7, *payload["token_ids"][1:]]
        vectors["chunks"] = rows.tolist()
        if kind == "no vectors":
            del vectors["chunks"]
    changed = [
        models.PointStruct(id=point.id, vector=vectors, payload=payload)
        for point, (vectors, payload) in zip(points, parts, strict=True)
    ]
    client.upsert(NAME, changed)


def test_a_server_that_cannot_be_reached_is_named() -> None:
    client = QdrantClient("http://127.0.0.1:1", check_compatibility=False)
    with pytest.raises(StoreError, match=r"collection refrag_records: .*check the server"):
        QdrantRecords(client).search(record(1).vector)


def test_token_vectors_may_be_compared_by_their_bits(
    over_http: QdrantClient, server: QdrantServer
) -> None:
    records = QdrantRecords(over_http, quantised=True)
    records.put([record(i) for i in range(5)])
    vectors = server.bodies[f"PUT /collections/{NAME}"]["vectors"]
    assert vectors["tokens"]["quantization_config"]["binary"]["always_ram"] is True
    assert "quantization_config" not in without_nulls(vectors["passage"])
    (found,) = records.search(np.ones(WIDTH), record(3).token_vectors, k=1)
    assert found.text == "passage 3"


def test_the_users_other_collections_are_left_alone(client: QdrantClient) -> None:
    plain = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("plain", vectors_config=plain)
    records = QdrantRecords(client, collection="plain")
    with pytest.raises(StoreError, match="collection plain"):
        records.put([record(1)])
    with pytest.raises(StoreError, match="collection plain"):
        records.search(record(1).vector)
    assert client.count("plain").count == 0


def without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
