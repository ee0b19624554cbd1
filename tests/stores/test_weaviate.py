"""Against a stand-in for the client: see ``fake_weaviate``. No server was ever reached."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
import weaviate
from weaviate.classes.config import DataType, Property

from refrag_components.exceptions import StoreError
from refrag_components.stores.weaviate import WeaviateStore
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.fake_weaviate import FakeCollection, FakeWeaviate
from tests.stores.processes import run


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


def only_collection(client: FakeWeaviate) -> FakeCollection:
    (collection,) = client.made.values()
    return collection


@pytest.mark.parametrize("damage", ["truncated", "no base64", "another key's"])
def test_a_damaged_object_is_a_miss_until_it_is_stored_again(
    client: FakeWeaviate, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(client)
    store.mset([("a", make(1)), ("b", make(2))])
    objects = {item["key"]: item for item in only_collection(client).objects.values()}
    whole = objects["a"]["value"]
    objects["a"]["value"] = {
        "truncated": base64.b64encode(base64.b64decode(whole)[:60]).decode(),
        "no base64": whole[:-3],
        "another key's": objects["b"]["value"],
    }[damage]
    with caplog.at_level(logging.WARNING):
        assert store.mget(["a", "b"]) == [None, make(2)]
    assert store.corrupt_rows == 1
    assert "row a is damaged" in caplog.text
    store.mset([("a", make(1))])
    assert store.mget(["a"]) == [make(1)]


def test_an_existing_collection_is_opened_again(client: FakeWeaviate) -> None:
    store_of(client, codec="rotated4").mset([("a", make(1))])
    read = store_of(client).mget(["a"])[0]
    assert read is not None
    assert read.token_ids.tolist() == make(1).token_ids.tolist()


def test_keys_come_in_pages(client: FakeWeaviate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refrag_components.stores.weaviate._KEYS_A_PAGE", 3)
    store = store_of(client)
    store.mset((key(i), make(0)) for i in range(10))
    assert sorted(store.yield_keys()) == sorted(key(i) for i in range(10))
    assert only_collection(client).pages_read == 5


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


def test_a_server_that_is_not_there_is_reported() -> None:
    with pytest.raises(StoreError, match=r"Weaviate at 127\.0\.0\.1"):
        WeaviateStore.from_url("weaviate://127.0.0.1:9")


def test_without_the_client_the_extra_is_named() -> None:
    code = """
        sys.modules["weaviate"] = None
        try:
            import refrag_components.stores.weaviate
        except ImportError as error:
            assert 'pip install "refrag-components[weaviate]"' in str(error)
        else:
            raise AssertionError
    """
    run(code)
