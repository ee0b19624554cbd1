"""Against Milvus Lite, which runs in this process; a Milvus server was not to be had."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymilvus import DataType, MilvusClient

from refrag_components.exceptions import StoreError
from refrag_components.stores.milvus import MilvusStore
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import check_kill, run


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

    @pytest.fixture
    def urls(self, path: Path) -> tuple[str, str]:
        return f"milvus://{path}?collection=one", f"milvus://{path}"

    @pytest.fixture(params=["truncated", "a part lost", "no base64", "another key's"])
    def damage(self, request: pytest.FixtureRequest, client: MilvusClient) -> Callable[[], None]:
        return lambda: damage_row(client, request.param)


def damage_row(client: MilvusClient, kind: str) -> None:
    found = client.query("refrag_chunk_vectors", filter='id >= ""', output_fields=["*"])
    rows = {row["key"]: dict(row) for row in found}
    parts = list(rows["a"]["value"])
    assert len(parts) > 1
    rows["a"]["value"] = {
        "truncated": [base64.b64encode(base64.b64decode(parts[0])[:60]).decode()],
        "a part lost": parts[:-1],
        "no base64": [*parts[:-1], parts[-1][:-3]],
        "another key's": list(rows["b"]["value"]),
    }[kind]
    client.upsert("refrag_chunk_vectors", [rows["a"]])


def test_a_file_belongs_to_one_process_until_that_ends(path: Path) -> None:
    url = f"milvus://{path}"
    code = """
        with open_store(sys.argv[1]) as store:
            store.mset([(key(0), make(0))])
    """
    run(code, url)
    with MilvusStore.from_url(url) as store:
        assert store.mget([key(0)]) == [make(0)]
        code = """
            from refrag_components.exceptions import StoreError
            try:
                open_store(sys.argv[1])
            except StoreError as error:
                assert "no other process has the file open" in str(error)
            else:
                raise AssertionError
        """
        run(code, url)
        store.mset([(key(1), make(1))])
        assert store.mget([key(0), key(1)]) == [make(0), make(1)]


def test_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    check_kill(f"milvus://{path}", rounds=1)  # then the file is this process's


def test_another_programs_collection_is_left_alone(client: MilvusClient) -> None:
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    client.create_collection("theirs", schema=schema, index_params=index)
    with pytest.raises(StoreError, match="something else"):
        MilvusStore(client, collection="theirs")


def test_missing_folders_and_wrong_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\.db"):
        MilvusStore.from_url(f"milvus://{tmp_path}/milvus")
    with MilvusStore.from_url(f"milvus://{tmp_path}/new/folder/milvus.db") as store:
        assert store.mget(["a"]) == [None]
