from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qdrant_client import QdrantClient, models

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.stores import open_store
from refrag_components.stores.qdrant import QdrantStore
from refrag_components.vectors import ChunkVectors
from tests.stores.contract import DatabaseContract, make
from tests.stores.processes import check_kill

NAME = "refrag_chunk_vectors"


@pytest.fixture(params=["memory", "path"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantClient]:
    memory = request.param == "memory"
    client = QdrantClient(":memory:") if memory else QdrantClient(path=str(tmp_path / "qdrant"))
    yield client
    client.close()


@pytest.fixture
def memory_client() -> QdrantClient:
    return QdrantClient(":memory:")


class TestQdrantStore(DatabaseContract):
    codecs = ("float16",)

    @pytest.fixture
    def store(self, client: QdrantClient) -> QdrantStore:
        return QdrantStore(client)

    @pytest.fixture
    def tenants(self, client: QdrantClient) -> tuple[QdrantStore, QdrantStore]:
        return QdrantStore(client, collection="one"), QdrantStore(client, collection="two")

    @pytest.fixture
    def urls(self, tmp_path: Path) -> tuple[str, str]:
        return f"qdrant://{tmp_path}/q?collection=one", f"qdrant://{tmp_path}/q"

    @pytest.fixture(
        params=[
            "another key's",
            "another key's vectors",
            "one value",
            "a vector less",
            "no vectors",
            "a token",
            "an odd codec",
            "odd types",
            "no payload",
        ]
    )
    def damage(self, request: pytest.FixtureRequest, client: QdrantClient) -> Callable[[], None]:
        return lambda: damage_point(client, request.param)


@given(
    vectors=arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_subnormal=True)),
    codec=st.sampled_from(["float32", "float16"]),
)
def test_values_are_kept_exactly_as_the_codec_has_them(vectors: np.ndarray, codec: Any) -> None:
    store = QdrantStore(QdrantClient(":memory:"), codec=codec)
    try:
        value = ChunkVectors(vectors, np.arange(9), 8, "abc123")
        kept = ChunkVectors.from_bytes(value.to_bytes(codec))
    except InvalidVectorsError:
        return
    store.mset([("a", value)])
    (read,) = store.mget(["a"])
    assert read is not None
    assert read == kept
    assert read.vectors.tobytes() == kept.vectors.tobytes()


def test_vectors_are_stored_but_not_indexed_or_normalised(memory_client: QdrantClient) -> None:
    QdrantStore(memory_client).mset([("a", make(1))])
    settings: Any = memory_client.get_collection(NAME).config.params.vectors
    assert settings["chunks"].distance == models.Distance.DOT
    assert settings["chunks"].hnsw_config.m == 0
    assert settings["chunks"].datatype == models.Datatype.FLOAT16
    (point,) = memory_client.scroll(NAME, with_vectors=True)[0]
    vectors: Any = point.vector
    np.testing.assert_array_equal(vectors["chunks"], make(1).vectors)
    assert point.payload is not None
    assert point.payload["key"] == "a"
    assert point.payload["token_ids"] == make(1).token_ids.tolist()


def test_a_path_is_opened_again_by_its_url(tmp_path: Path) -> None:
    url = f"qdrant://{tmp_path / 'qdrant'}?collection=vectors&codec=float32"
    with open_store(url) as store:
        store.mset([("a", make(1))])
        with pytest.raises(StoreError, match="already accessed"):
            open_store(url)
    with open_store(url) as store:
        assert store.mget(["a"]) == [make(1)]


# -- damage -------------------------------------------------------------------------------------


def damage_point(client: QdrantClient, kind: str) -> None:
    a, b = (
        next(p for p in client.scroll(NAME, with_vectors=True)[0] if (p.payload or {})["key"] == k)
        for k in "ab"
    )
    assert a.payload is not None
    assert b.payload is not None
    vectors: Any = a.vector
    payload, rows = dict(a.payload), np.array(vectors["chunks"])
    if kind == "another key's":
        payload, rows = b.payload, np.array(b.vector["chunks"])  # type: ignore[index,call-overload]
    elif kind == "another key's vectors":
        rows = np.array(b.vector["chunks"])  # type: ignore[index,call-overload]
    elif kind == "one value":
        rows[0, 0] += 0.5
    elif kind == "a vector less":
        rows = rows[:-1]
    elif kind == "no vectors":
        rows = rows[:0]
    elif kind == "a token":
        payload["token_ids"] = [7, *payload["token_ids"][1:]]
    elif kind == "an odd codec":
        payload["codec"] = "int9"
    elif kind == "odd types":
        payload |= {"token_ids": {"a": 1}, "chunk_size": "8", "width": None}
    elif kind == "no payload":
        payload = {}
    vector: Any = {"chunks": rows.tolist()} if len(rows) else {}
    client.upsert(NAME, [models.PointStruct(id=a.id, vector=vector, payload=payload)])


def test_survives_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    check_kill(f"qdrant://{tmp_path / 'qdrant'}", batches_are_whole=False)


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_collection_of_another_kind_is_left_alone(memory_client: QdrantClient) -> None:
    plain = models.VectorParams(size=4, distance=models.Distance.COSINE)
    memory_client.create_collection("plain", vectors_config=plain)
    memory_client.create_collection("named", vectors_config={"other": plain})
    QdrantStore(memory_client, collection="exact", codec="float32").mset([("a", make(1))])
    for name in ("plain", "named", "exact"):
        with pytest.raises(StoreError, match="choose another collection"):
            QdrantStore(memory_client, collection=name)


def test_a_collection_has_one_width(memory_client: QdrantClient) -> None:
    store = QdrantStore(memory_client)
    store.mset([("a", make(1))])
    with pytest.raises(StoreError, match=r"width 6, not 7; .* its own collection"):
        store.mset([("c", make(3)), ("b", make(2, width=7))])
    assert store.mget(["a", "b", "c"]) == [make(1), None, None]


def test_other_codecs_are_refused(memory_client: QdrantClient) -> None:
    with pytest.raises(ValueError, match="float32 or float16"):
        QdrantStore(memory_client, codec="int8")


@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_out_of_reach_is_named_and_the_key_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")
    for url in ("qdrant://:s3cret@127.0.0.1:1/c", "qdrant://127.0.0.1:1/c?https=false"):
        with pytest.raises(StoreError, match=r"Qdrant collection c: .*check the server") as caught:
            open_store(url)
        assert "s3cret" not in str(caught.value)
