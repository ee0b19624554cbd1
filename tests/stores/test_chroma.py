from __future__ import annotations

import base64
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api import ClientAPI

from refrag_components.exceptions import StoreError
from refrag_components.stores.chroma import ChromaStore
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import check_kill, check_second_process, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "chroma"


@pytest.fixture
def client(folder: Path) -> Iterator[ClientAPI]:
    client = chromadb.PersistentClient(folder)
    yield client
    client.close()


class TestChromaStore(DatabaseContract):
    @pytest.fixture
    def store(self, client: ClientAPI) -> ChromaStore:
        return ChromaStore(client)

    @pytest.fixture
    def tenants(self, client: ClientAPI) -> tuple[ChromaStore, ChromaStore]:
        return ChromaStore(client, collection="one"), ChromaStore(client, collection="two")

    @pytest.fixture
    def urls(self, folder: Path) -> tuple[str, str]:
        return f"chroma://{folder}?collection=one", f"chroma://{folder}"

    @pytest.fixture(params=["truncated", "no base64", "a number", "another key's", "no metadata"])
    def damage(self, request: pytest.FixtureRequest, client: ClientAPI) -> Callable[[], None]:
        return lambda: damage_record(client, request.param)


def damage_record(client: ClientAPI, kind: str) -> None:
    collection = client.get_collection("refrag_chunk_vectors")
    found = collection.get(ids=["a", "b"])
    rows = dict(zip(found["ids"], found["metadatas"] or [], strict=True))
    a, b = str(rows["a"]["value"]), str(rows["b"]["value"])
    collection.delete(ids=["a"])
    values: dict[str, str | int] = {
        "truncated": base64.b64encode(base64.b64decode(a)[:60]).decode(),
        "no base64": a[:-3],
        "a number": 7,
        "another key's": b,
    }
    metadatas = [{"value": values[kind]}] if kind in values else None
    collection.add(ids=["a"], embeddings=[[0.0]], metadatas=metadatas)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a running Chroma server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("chroma"), "run", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--path", tmp_path / "server"], stdout=subprocess.DEVNULL
    )
    answers = False
    while not answers:
        assert process.poll() is None, "the server did not start"
        with socket.socket() as probe:
            answers = probe.connect_ex(("127.0.0.1", port)) == 0
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_another_process_finds_what_was_written(folder: Path) -> None:
    with ChromaStore.from_url(f"chroma://{folder}") as store:
        store.mset([(key(0), make(0))])
    code = """
        with open_store(sys.argv[1]) as store:
            assert store.mget([key(0)]) == [make(0)]
            store.mset([(key(1), make(1))])
    """
    run(code, f"chroma://{folder}")
    with ChromaStore.from_url(f"chroma://{folder}") as store:
        assert store.mget([key(0), key(1)]) == [make(0), make(1)]


def test_processes_share_a_server(server: str) -> None:
    check_second_process(f"chroma://{server}/busy")
    with ChromaStore.from_url(f"chroma://{server}/tenant_a") as store:
        store.mset([(key(i), make(i)) for i in range(100)])
        code = """
            with open_store(sys.argv[1]) as store:
                assert store.mget([key(7)]) == [make(7)]
                store.mset([(key(7), make(0))])
                store.mdelete([key(8)])
        """
        run(code, f"chroma://{server}/tenant_a")
        assert store.mget([key(6), key(7), key(8)]) == [make(6), make(0), None]
        with ChromaStore.from_url(f"chroma://{server}") as other:
            assert list(other.yield_keys()) == []


def test_survives_a_kill_in_the_middle_of_writing(folder: Path) -> None:
    check_kill(f"chroma://{folder}")


def test_another_programs_collection_is_left_alone(client: ClientAPI) -> None:
    client.create_collection("theirs", embedding_function=None)
    with pytest.raises(StoreError, match="something else"):
        ChromaStore(client, collection="theirs")
    assert client.get_collection("theirs").metadata is None


def test_two_stores_of_one_folder_are_closed_one_by_one(folder: Path) -> None:
    store = ChromaStore.from_url(f"chroma://{folder}")
    with ChromaStore.from_url(f"chroma://{folder}") as other:
        store.close()
        store.close()
        assert other.mget(["a"]) == [None]
