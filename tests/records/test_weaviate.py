"""Against a stand-in that speaks Weaviate's protocol, see ``WeaviateServer``; not a server."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import weaviate
from weaviate.classes.config import Configure, DataType, Property

from refrag_components.exceptions import StoreError
from refrag_components.records.weaviate import WeaviateRecords
from tests.records.contract import WIDTH, PackedContract, record
from tests.records.weaviate_server import WeaviateServer

NAME = "RefragRecords"


@pytest.fixture
def server() -> WeaviateServer:
    return WeaviateServer()


@pytest.fixture
def client(server: WeaviateServer) -> Iterator[weaviate.WeaviateClient]:
    with server.serving() as (port, grpc_port):
        # What is skipped would ask PyPI for a later client.
        client = weaviate.connect_to_local(
            port=port, grpc_port=grpc_port, host="127.0.0.1", skip_init_checks=True
        )
        yield client
        client.close()


class TestWeaviateRecords(PackedContract):
    @pytest.fixture
    def records(self, client: weaviate.WeaviateClient) -> WeaviateRecords:
        return WeaviateRecords(client)

    @pytest.fixture(params=["truncated", "nothing", "no base64", "another's"])
    def damage(self, request: pytest.FixtureRequest, server: WeaviateServer) -> Callable[[], None]:
        return lambda: damage_objects(server, request.param)

    @pytest.fixture
    def replace_tokens(self, server: WeaviateServer) -> Callable[[str, bytes], None]:
        def replace(text: str, tokens: bytes) -> None:
            (objects,) = server.classes[NAME].tenants.values()
            (own,) = [
                each.properties for each in objects.values() if each.properties["text"] == text
            ]
            own["tokens"] = base64.b64encode(tokens).decode()

        return replace

    def test_a_search_is_one_request(
        self, records: WeaviateRecords, server: WeaviateServer
    ) -> None:
        stored = [record(i) for i in range(5)]
        records.put(stored)
        server.asked.clear()
        (found,) = records.search(stored[2].vector, k=1)
        assert found.chunk_vectors == stored[2].chunk_vectors
        (late,) = records.search(stored[2].vector, stored[2].token_vectors, k=1)
        assert late.chunk_vectors == stored[2].chunk_vectors
        assert server.asked == ["Search", "Search"]

    def test_token_vectors_are_sent_for_late_interaction_alone(
        self, records: WeaviateRecords, server: WeaviateServer
    ) -> None:
        records.put([record(1)])
        records.search(record(1).vector)
        records.search(record(1).vector, record(1).token_vectors)
        plain, late = ({*message.properties.non_ref_properties} for message in server.messages[-2:])
        assert plain == {"key", "text", "metadata", "chunks"}
        assert late - plain == {"tokens"}

    def test_every_request_names_the_tenant(
        self, records: WeaviateRecords, server: WeaviateServer
    ) -> None:
        mine = records.for_tenant("a / b")
        mine.put([record(1)])
        mine.search(record(1).vector, record(1).token_vectors)
        mine.delete([record(1).key])
        (shard,) = server.classes[NAME].tenants
        assert shard.isalnum()
        insertion, *others = server.messages
        assert {each.tenant for each in (*insertion.objects, *others)} == {shard}
        assert len(others) == 2


def damage_objects(server: WeaviateServer, kind: str) -> None:
    (objects,) = server.classes[NAME].tenants.values()
    parts = [each.properties for each in objects.values()]
    whole = [part["chunks"] for part in parts]
    for part, own, other in zip(parts, whole, whole[::-1], strict=True):
        match kind:
            case "truncated":
                part["chunks"] = base64.b64encode(base64.b64decode(own)[:40]).decode()
            case "nothing":
                del part["chunks"]
            case "no base64":
                part["chunks"] = own[:-3]
            case _:
                part["chunks"] = other


def test_a_collection_is_made_for_tenants_and_indexes_passages_alone(
    client: weaviate.WeaviateClient, server: WeaviateServer
) -> None:
    WeaviateRecords(client).put([record(1)])
    config = server.classes[NAME].config
    assert config["multiTenancyConfig"] == {
        "enabled": True,
        "autoTenantCreation": True,
        "autoTenantActivation": True,
    }
    (vector,) = config["vectorConfig"].values()
    assert vector["vectorIndexConfig"] == {"distance": "cosine", "skipDefaultQuantization": True}
    for each in config["properties"]:
        assert each["dataType"] == ["blob"] or not (
            each["indexFilterable"] or each["indexSearchable"]
        )


def test_quantised_collections_rotate_passage_vectors_and_keep_bits_of_tokens(
    client: weaviate.WeaviateClient, server: WeaviateServer
) -> None:
    records = WeaviateRecords(client, quantised=True)
    records.put([record(i, tokens=4) for i in range(5)])
    (vector,) = server.classes[NAME].config["vectorConfig"].values()
    assert vector["vectorIndexConfig"]["rq"] == {"enabled": True, "bits": 8}
    (objects,) = server.classes[NAME].tenants.values()
    sizes = {len(base64.b64decode(each.properties["tokens"])) for each in objects.values()}
    assert sizes == {4 * WIDTH // 8}
    signs = np.where(record(3, tokens=4).token_vectors > 0, 1.0, -1.0)  # type: ignore[operator]
    (found,) = records.search(np.ones(WIDTH), signs, k=1)
    assert found.text == "passage 3"
    assert found.score == pytest.approx(1, abs=1e-3)


def test_the_users_other_collections_are_left_alone(
    client: weaviate.WeaviateClient, server: WeaviateServer
) -> None:
    client.collections.create(
        "Mine",
        properties=[Property(name="title", data_type=DataType.TEXT)],
        vector_config=Configure.Vectors.self_provided(name="mine"),
    )
    records = WeaviateRecords(client, collection="Mine")
    with pytest.raises(StoreError, match=r"collection Mine.*check"):
        records.put([record(1)])
    with pytest.raises(StoreError, match=r"collection Mine.*check"):
        records.search(record(1).vector)
    assert not any(server.classes["Mine"].tenants.values())


def test_what_the_server_refuses_is_reported(client: weaviate.WeaviateClient) -> None:
    with pytest.raises(StoreError, match="not a valid class name"):
        WeaviateRecords(client, collection="no name").put([record(1)])


def test_a_server_that_went_away_is_named(server: WeaviateServer) -> None:
    with server.serving() as (port, grpc_port):
        client = weaviate.connect_to_local(
            port=port, grpc_port=grpc_port, host="127.0.0.1", skip_init_checks=True
        )
        records = WeaviateRecords(client)
        records.put([record(1)])
    # A search would end the same way, but the client itself tries that for a minute.
    for asked in (lambda: records.put([record(2)]), lambda: records.delete([record(1).key])):
        with pytest.raises(StoreError, match=r"collection RefragRecords: .*check the server"):
            asked()
    client.close()
