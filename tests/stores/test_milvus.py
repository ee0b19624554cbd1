"""Against Milvus Lite, which runs in this process; a Milvus server was not to be had."""

from __future__ import annotations

import base64
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.stores.milvus import MilvusStore
from refrag_components.vectors import ChunkVectors
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import run, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "milvus.db"


@pytest.fixture
def client(path: Path) -> Iterator[MilvusClient]:
    client = MilvusClient(str(path))
    yield client
    client.close()


class TestMilvusStore(DatabaseContract):
    @pytest.fixture
    def store(self, client: MilvusClient) -> MilvusStore:
        return MilvusStore(client)

    @pytest.fixture
    def tenants(self, client: MilvusClient) -> tuple[MilvusStore, MilvusStore]:
        return MilvusStore(client, collection="one"), MilvusStore(client, collection="two")


def rows_by_key(client: MilvusClient) -> dict[str, dict]:
    rows = client.query("refrag_chunk_vectors", filter='id >= ""', output_fields=["*"])
    return {row["key"]: dict(row) for row in rows}


@pytest.mark.parametrize("kind", ["truncated", "a part lost", "no base64", "another key's"])
def test_a_damaged_row_is_a_miss_until_it_is_stored_again(
    client: MilvusClient, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    long = make(1, n_tokens=400, width=1000)
    store = MilvusStore(client)
    store.mset([("a", long), ("b", make(2))])
    rows = rows_by_key(client)
    parts = list(rows["a"]["value"])
    assert len(parts) > 1
    rows["a"]["value"] = {
        "truncated": [base64.b64encode(base64.b64decode(parts[0])[:60]).decode()],
        "a part lost": parts[:-1],
        "no base64": [*parts[:-1], parts[-1][:-3]],
        "another key's": list(rows["b"]["value"]),
    }[kind]
    client.upsert("refrag_chunk_vectors", [rows["a"]])
    with caplog.at_level(logging.WARNING):
        assert store.mget(["a", "b"]) == [None, make(2)]
    assert store.corrupt_rows == 1
    assert "row a is damaged" in caplog.text
    store.mset([("a", long)])
    assert store.mget(["a"]) == [long]


def test_values_outlive_the_store(path: Path) -> None:
    url = f"milvus://{path}?codec=rotated4&collection=tenant_a"
    with MilvusStore.from_url(url) as store:
        assert store.codec == "rotated4"
        store.mset([("a", make(1))])
        (written,) = store.mget(["a"])
    with MilvusStore.from_url(url) as store:
        assert store.mget(["a"]) == [written]
    with MilvusStore.from_url(f"milvus://{path}") as store:
        assert store.mget(["a"]) == [None]


def test_a_file_belongs_to_one_process_until_that_ends(path: Path) -> None:
    url = f"milvus://{path}"
    code = """
        from refrag_components.stores.milvus import MilvusStore
        with MilvusStore.from_url(sys.argv[1]) as store:
            store.mset([(key(0), make(0))])
    """
    run(code, url)
    with MilvusStore.from_url(url) as store:
        assert store.mget([key(0)]) == [make(0)]
        code = """
            from refrag_components.exceptions import StoreError
            from refrag_components.stores.milvus import MilvusStore
            try:
                MilvusStore.from_url(sys.argv[1])
            except StoreError as error:
                assert "no other process has the file open" in str(error)
            else:
                raise AssertionError
        """
        run(code, url)
        store.mset([(key(1), make(1))])
        assert store.mget([key(0), key(1)]) == [make(0), make(1)]


def test_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    url = f"milvus://{path}"
    writer = start(
        """
        store = open_store(sys.argv[1])
        for i in range(100_000):
            store.mset([(key(i), make(i)), (f"twin{i}", make(i))])
            print(i, flush=True)
        """,
        url,
    )
    assert writer.stdout is not None
    committed = [int(writer.stdout.readline()) for _ in range(15)]
    writer.send_signal(signal.SIGKILL)
    committed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    with MilvusStore.from_url(url) as store:
        assert store.mget([key(i) for i in committed]) == [make(i) for i in committed]
        keys = list(store.yield_keys())
        assert None not in store.mget(keys)
        assert len(keys) == 2 * sum(name.startswith("twin") for name in keys)


def test_keys_come_in_pages(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refrag_components.stores.milvus._KEYS_A_PAGE", 3)
    store = MilvusStore(client)
    for count in (8, 9, 10):
        store.mset((key(i), make(0)) for i in range(count))
        assert sorted(store.yield_keys()) == sorted(key(i) for i in range(count))


def test_keys_that_look_like_a_filter_are_plain_text(client: MilvusClient) -> None:
    store = MilvusStore(client)
    names = ['a"] or id >= ["', "like 'a%'", "{keys}"]
    store.mset([*((name, make(0)) for name in names), ("other", make(1))])
    assert store.mget(names) == [make(0)] * 3
    store.mdelete(names)
    assert list(store.yield_keys()) == ["other"]


def test_a_value_that_does_not_fit_the_codec_leaves_nothing_behind(client: MilvusClient) -> None:
    store = MilvusStore(client)
    huge = ChunkVectors(np.array([[1e6]]), np.array([1]), 4, "f")
    with pytest.raises(InvalidVectorsError, match="float16"):
        store.mset([("a", make(1)), ("b", huge)])
    assert list(store.yield_keys()) == []


def test_another_programs_collection_is_left_alone(client: MilvusClient) -> None:
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    client.create_collection("theirs", schema=schema, index_params=index)
    with pytest.raises(StoreError, match="something else"):
        MilvusStore(client, collection="theirs")


def test_an_unknown_codec_is_refused(client: MilvusClient) -> None:
    with pytest.raises(ValueError, match="int4"):
        MilvusStore(client, codec="int4")  # type: ignore[arg-type]
    assert client.list_collections() == []


def test_a_closed_store_says_so(path: Path) -> None:
    store = MilvusStore.from_url(f"milvus://{path}")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.mget(["a"])


def test_the_users_client_stays_open(client: MilvusClient) -> None:
    MilvusStore(client).close()
    assert MilvusStore(client).mget(["a"]) == [None]


def test_missing_folders_and_wrong_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\.db"):
        MilvusStore.from_url(f"milvus://{tmp_path}/milvus")
    with MilvusStore.from_url(f"milvus://{tmp_path}/new/folder/milvus.db") as store:
        assert store.mget(["a"]) == [None]


def test_other_options_are_refused_without_telling_the_password() -> None:
    with pytest.raises(StoreError, match="option") as caught:
        MilvusStore.from_url("milvus://:s3cret@localhost/c?colection=x")
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_reported() -> None:
    with pytest.raises(StoreError, match=r"Milvus at http://127\.0\.0\.1:9"):
        MilvusStore.from_url("milvus://127.0.0.1:9")


def test_without_pymilvus_the_extra_is_named() -> None:
    code = """
        sys.modules["pymilvus"] = None
        try:
            import refrag_components.stores.milvus
        except ImportError as error:
            assert 'pip install "refrag-components[milvus]"' in str(error)
        else:
            raise AssertionError
    """
    run(code)
