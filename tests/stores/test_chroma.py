from __future__ import annotations

import base64
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
import numpy as np
import pytest
from chromadb.api import ClientAPI

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.stores.chroma import ChromaStore
from refrag_components.vectors import ChunkVectors
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
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a running Chroma server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("chroma"), "run", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--path", tmp_path / "server"], stdout=subprocess.DEVNULL
    )
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def damage(client: ClientAPI, name: str, metadata: dict[str, str | int]) -> None:
    client.get_collection("refrag_chunk_vectors").update(ids=[name], metadatas=[metadata])


def stored(client: ClientAPI, name: str) -> str:
    metadatas = client.get_collection("refrag_chunk_vectors").get(ids=[name])["metadatas"]
    assert metadatas is not None
    return str(metadatas[0]["value"])


@pytest.mark.parametrize("kind", ["truncated", "no base64", "a number", "another key's"])
def test_a_damaged_record_is_a_miss_until_it_is_stored_again(
    client: ClientAPI, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = ChromaStore(client)
    store.mset([("a", make(1)), ("b", make(2))])
    whole = stored(client, "a")
    values: dict[str, str | int] = {
        "truncated": base64.b64encode(base64.b64decode(whole)[:60]).decode(),
        "no base64": whole[:-3],
        "a number": 7,
        "another key's": stored(client, "b"),
    }
    damage(client, "a", {"value": values[kind]})
    with caplog.at_level(logging.WARNING):
        assert store.mget(["a", "b"]) == [None, make(2)]
    assert store.corrupt_rows == 1
    assert "row a is damaged" in caplog.text
    store.mset([("a", make(1))])
    assert store.mget(["a"]) == [make(1)]


def test_a_record_without_metadata_is_a_miss(client: ClientAPI) -> None:
    store = ChromaStore(client)
    client.get_collection("refrag_chunk_vectors").upsert(ids=["a"], embeddings=[[0.0]])
    assert store.mget(["a"]) == [None]
    assert store.corrupt_rows == 1


def test_values_outlive_the_store(folder: Path) -> None:
    url = f"chroma://{folder}?codec=rotated4&collection=tenant_a"
    with ChromaStore.from_url(url) as store:
        assert store.codec == "rotated4"
        store.mset([("a", make(1))])
        (written,) = store.mget(["a"])
    with ChromaStore.from_url(url) as store:
        assert store.mget(["a"]) == [written]
    with ChromaStore.from_url(f"chroma://{folder}") as store:
        assert store.mget(["a"]) == [None]


def test_another_process_finds_what_was_written(folder: Path) -> None:
    with ChromaStore.from_url(f"chroma://{folder}") as store:
        store.mset([(key(0), make(0))])
    code = """
        from refrag_components.stores.chroma import ChromaStore
        with ChromaStore.from_url(sys.argv[1]) as store:
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
            from refrag_components.stores.chroma import ChromaStore
            with ChromaStore.from_url(sys.argv[1]) as store:
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


def test_keys_come_in_pages(client: ClientAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refrag_components.stores.chroma._KEYS_A_PAGE", 3)
    store = ChromaStore(client)
    for count in (8, 9, 10):
        store.mset((key(i), make(0)) for i in range(count))
        assert sorted(store.yield_keys()) == sorted(key(i) for i in range(count))


def test_a_value_that_does_not_fit_the_codec_leaves_nothing_behind(client: ClientAPI) -> None:
    store = ChromaStore(client)
    huge = ChunkVectors(np.array([[1e6]]), np.array([1]), 4, "f")
    with pytest.raises(InvalidVectorsError, match="float16"):
        store.mset([("a", make(1)), ("b", huge)])
    assert list(store.yield_keys()) == []


def test_another_programs_collection_is_left_alone(client: ClientAPI) -> None:
    client.create_collection("theirs", embedding_function=None)
    with pytest.raises(StoreError, match="something else"):
        ChromaStore(client, collection="theirs")
    assert client.get_collection("theirs").metadata is None


def test_an_unknown_codec_is_refused(client: ClientAPI) -> None:
    with pytest.raises(ValueError, match="int4"):
        ChromaStore(client, codec="int4")  # type: ignore[arg-type]
    assert client.list_collections() == []


def test_a_closed_store_says_so(folder: Path) -> None:
    store = ChromaStore.from_url(f"chroma://{folder}")
    with ChromaStore.from_url(f"chroma://{folder}") as other:
        store.close()
        store.close()
        assert other.mget(["a"]) == [None]
    with pytest.raises(StoreError, match="closed"):
        store.mget(["a"])


def test_the_users_client_stays_open(client: ClientAPI) -> None:
    ChromaStore(client).close()
    assert ChromaStore(client).mget(["a"]) == [None]


def test_other_options_are_refused_without_telling_the_password() -> None:
    with pytest.raises(StoreError, match="option") as caught:
        ChromaStore.from_url("chroma://:s3cret@localhost/c?colection=x")
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_reported() -> None:
    with pytest.raises(StoreError, match=r"Chroma at 127\.0\.0\.1:9"):
        ChromaStore.from_url("chroma://127.0.0.1:9")


def test_a_file_in_place_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        ChromaStore.from_url(f"chroma://{tmp_path}/file")


def test_without_chromadb_the_extra_is_named() -> None:
    code = """
        sys.modules["chromadb"] = None
        try:
            import refrag_components.stores.chroma
        except ImportError as error:
            assert 'pip install "refrag-components[chroma]"' in str(error)
        else:
            raise AssertionError
    """
    run(code)
