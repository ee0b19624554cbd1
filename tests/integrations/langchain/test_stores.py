"""Stores of LangChain under chunk vectors, and stores of chunk vectors for LangChain."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore

from langchain_refrag import ByteChunkStore, ChatRefrag, RefragRetriever, RefragStore
from refrag_components.stores import ChunkStore, SQLiteStore, forget_everything
from tests.integrations.langchain.conftest import ListRetriever
from tests.stores.contract import StoreContract, key, make


class TestByteChunkStore(StoreContract):
    @pytest.fixture
    def store(self) -> ChunkStore:
        return ByteChunkStore(InMemoryByteStore(), namespace="tenant-a/")


def test_namespaces_see_nothing_of_each_other() -> None:
    shared = InMemoryByteStore()
    first, second = (ByteChunkStore(shared, namespace=f"{name}/") for name in ("a", "b"))
    first.mset([(key(1), make(1))])
    assert second.mget([key(1)]) == [None]
    assert list(second.yield_keys()) == []
    second.mset([(key(1), make(2))])
    second.mdelete([key(1)])
    assert first.mget([key(1)]) == [make(1)]
    assert list(shared.yield_keys()) == [f"a/{key(1)}"]


@pytest.mark.parametrize("namespace", ["", "a/", "a", "a/b"])
def test_a_tenant_in_files_is_forgotten(tmp_path: Path, namespace: str) -> None:
    """A prefix is a folder to ``LocalFileStore``."""
    store = ByteChunkStore(LocalFileStore(tmp_path), namespace=namespace)
    store.mset((key(i), make(i)) for i in range(3))
    assert list(store.yield_keys(prefix=key(1)[:5])) == [key(1)]
    forget_everything(store)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_damaged_and_exchanged_values_are_misses() -> None:
    values = InMemoryByteStore()
    store = ByteChunkStore(values)
    store.mset([("a", make(1)), ("b", make(2)), ("c", make(3))])
    a, b = values.mget(["a", "b"])
    assert a is not None
    assert b is not None
    values.mset([("a", b), ("b", a[:-9] + b"?" * 8 + b"b"), ("d", b"")])
    assert store.mget(["a", "b", "c", "d"]) == [None, None, make(3), None]


def test_codecs() -> None:
    values = InMemoryByteStore()
    exact, small = ByteChunkStore(values, codec="float32"), ByteChunkStore(values, codec="int8")
    exact.mset([("a", make(1))])
    small.mset([("b", make(1))])
    assert small.mget(["a"]) == [make(1)]
    (rounded,) = exact.mget(["b"])
    assert rounded is not None
    assert rounded.vectors == pytest.approx(make(1).vectors, abs=0.05)
    with pytest.raises(ValueError, match="int8"):
        ByteChunkStore(values, codec="int7")  # type: ignore[arg-type]


def test_files_serve_a_chain(
    list_retriever: ListRetriever, chat: ChatRefrag, tmp_path: Path
) -> None:
    def refrag() -> dict[str, int]:
        store = ByteChunkStore(LocalFileStore(tmp_path), namespace="chunks/")
        documents = RefragRetriever(retriever=list_retriever, store=store).invoke("When?")
        context = "\n\n".join(document.page_content for document in documents)
        report: dict[str, int] = chat.invoke(f"{context}\n\nWhen?").response_metadata["refrag"]
        return report

    assert refrag()["cache_misses"] == 3
    assert len(list((tmp_path / "chunks").iterdir())) == 3
    assert refrag()["cache_hits"] == 3


async def test_any_store_is_a_base_store(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "chunks.sqlite") as inner:
        store = RefragStore(inner)
        await store.amset([(key(1), make(1)), (key(2), make(2))])
        assert await store.amget([key(2), "unknown"]) == [make(2), None]
        assert sorted([name async for name in store.ayield_keys()]) == sorted([key(1), key(2)])
        await store.amdelete([key(1)])
        assert list(inner.yield_keys()) == [key(2)]
