"""Against a stand-in for the client: see ``fake_weaviate``. No server was ever reached."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import weaviate
from weaviate.classes.config import DataType, Property

from refrag_components.exceptions import StoreError
from refrag_components.stores.weaviate import WeaviateStore
from tests.stores.contract import DatabaseContract, make
from tests.stores.fake_weaviate import FakeCollection, FakeWeaviate


@pytest.fixture
def client() -> FakeWeaviate:
    return FakeWeaviate()


def store_of(client: Any, **options: Any) -> WeaviateStore:
    return WeaviateStore(client, **options)


class TestWeaviateStore(DatabaseContract):
    @pytest.fixture
    def store(self, client: FakeWeaviate) -> WeaviateStore:
        return store_of(client)

    @pytest.fixture
    def tenants(self, client: FakeWeaviate) -> tuple[WeaviateStore, WeaviateStore]:
        return store_of(client, collection="One"), store_of(client, collection="Two")

    @pytest.fixture
    def urls(self, client: FakeWeaviate, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
        monkeypatch.setattr(weaviate, "connect_to_custom", lambda **_: client)
        return "weaviate://host/One", "weaviate://host"

    @pytest.fixture(params=["truncated", "no base64", "another key's"])
    def damage(self, request: pytest.FixtureRequest, client: FakeWeaviate) -> Callable[[], None]:
        return lambda: damage_object(client, request.param)


def only_collection(client: FakeWeaviate) -> FakeCollection:
    (collection,) = client.made.values()
    return collection


def damage_object(client: FakeWeaviate, kind: str) -> None:
    objects = {item["key"]: item for item in only_collection(client).objects.values()}
    whole = objects["a"]["value"]
    objects["a"]["value"] = {
        "truncated": base64.b64encode(base64.b64decode(whole)[:60]).decode(),
        "no base64": whole[:-3],
        "another key's": objects["b"]["value"],
    }[kind]


def test_what_the_server_refuses_is_reported(client: FakeWeaviate) -> None:
    store = store_of(client)
    only_collection(client).refused = "disk full"
    with pytest.raises(StoreError, match="disk full"):
        store.mset([("a", make(1))])


def test_another_programs_collection_is_left_alone(client: FakeWeaviate) -> None:
    client.made["RefragChunkVectors"] = FakeCollection(
        [Property(name="title", data_type=DataType.TEXT)]
    )
    with pytest.raises(StoreError, match="something else"):
        store_of(client)


def test_a_url_names_host_ports_key_and_collection(
    client: FakeWeaviate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def connect(**arguments: Any) -> FakeWeaviate:
        asked.update(arguments)
        return client

    monkeypatch.setattr(weaviate, "connect_to_custom", connect)
    url = "weaviate://:s%2Fecret@db.example:8081/Tenant?codec=int8&grpc_port=50052&https=true"
    with WeaviateStore.from_url(url) as store:
        assert (store.codec, list(client.made)) == ("int8", ["Tenant"])
    assert client.closed
    assert asked.pop("auth_credentials").api_key == "s/ecret"
    assert asked == {
        "http_host": "db.example",
        "http_port": 8081,
        "http_secure": True,
        "grpc_host": "db.example",
        "grpc_port": 50052,
        "grpc_secure": True,
    }


def test_the_users_client_stays_open(client: FakeWeaviate) -> None:
    store_of(client).close()
    assert not client.closed


@pytest.mark.parametrize("url", ["weaviate:///path", "weaviate://h/C?other=1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match="weaviate://host:8080/Collection"):
        WeaviateStore.from_url(url)
