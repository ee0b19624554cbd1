"""What a request has retrieved is kept as long as needed, and no longer."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from refrag_components.prompts import retrieved as module
from refrag_components.prompts.retrieved import (
    Retrieval,
    Retrieved,
    begin_request,
    retrieved_by_hand,
)
from refrag_components.stores import SQLiteStore
from refrag_components.stores.common.base import ChunkStore
from refrag_components.stores.memory import MemoryStore

LAKE = "The lake of Zug lies between the cantons of Zug, Schwyz and Lucerne."


def retrieve(query: str, store: ChunkStore | None = None) -> Retrieved:
    """A request that begins in this thread or task."""
    request = Retrieved()
    begin_request(request)
    request.add(Retrieval.of(query, [LAKE], store))
    return request


def test_texts_without_white_space_around_them() -> None:
    retrieval = Retrieval.of(" why?\n", [f" {LAKE}\n", " ", ""])
    assert (retrieval.query, retrieval.passages, retrieval.store) == ("why?", (LAKE,), None)


def test_an_empty_store_is_a_store() -> None:
    store = MemoryStore()
    assert Retrieval.of("", [LAKE], store).store is store


def test_a_store_is_not_kept_alive() -> None:
    store = MemoryStore()
    request, known = retrieve("why?", store), weakref.ref(store)
    del store
    gc.collect()
    assert known() is None
    assert [each.store for each in request.retrievals] == [None]


def test_one_store_per_request_leaves_no_file_open(tmp_path: object) -> None:
    """1,023 open files were the end of it."""
    for i in range(1500):
        store = SQLiteStore(f"{tmp_path}/{i % 3}.sqlite")
        list(store.yield_keys())
        retrieve(f"question {i}", store)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CHARACTERS", 10_000)
    request = Retrieved()
    for i in range(1000):
        request.add(Retrieval.of(f"{i}", ["x" * 100, "y" * 100]))
        request.add(Retrieval.of(f"{i}", ["x" * 100, "y" * 100]))  # the same again takes no room
    kept = [int(each.query) for each in request.retrievals]
    assert kept == list(range(1000 - len(kept), 1000))
    assert 40 < len(kept) <= 50


def test_requests_of_a_thread_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(100):
        begin_request(Retrieved())  # nothing retrieved, nothing to remember
        retrieve(f"{i}")
    queries = [each.query for each in retrieved_by_hand()]
    assert queries == [f"{i}" for i in range(68, 100)]
    monkeypatch.setattr(module, "_MAX_CHARACTERS", 10 * len(LAKE))
    retrieve("last")
    assert [each.query for each in retrieved_by_hand()][-1] == "last"
    assert len(retrieved_by_hand()) < 11


def test_threads_may_add_at_once() -> None:
    request = Retrieved()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: request.add(Retrieval.of(f"{i}", [LAKE])), range(400)))
    assert {each.query for each in request.retrievals} == {f"{i}" for i in range(400)}


async def test_tasks_and_threads_do_not_see_each_other() -> None:
    retrieve("before")

    async def work(name: str) -> list[str]:
        retrieve(name)
        await asyncio.sleep(0)
        return [each.query for each in retrieved_by_hand()][-2:]

    assert await asyncio.gather(work("a"), work("b")) == [["before", "a"], ["before", "b"]]
    assert retrieved_by_hand()[-1].query == "before"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(retrieved_by_hand).result() == ()
        copied = contextvars.copy_context()
        assert pool.submit(copied.run, retrieved_by_hand).result()[-1].query == "before"


def test_what_a_passage_carries_comes_before_the_retriever_s_store() -> None:
    store, own = MemoryStore(), MemoryStore()
    retrieval = Retrieval.of("why?", [LAKE, "Zug"], store, {"its key": own})
    assert retrieval.store_of(LAKE, "its key") is own
    assert retrieval.store_of("Zug", "another") is store
    assert retrieval.store_of(LAKE, "its key for another model") is store
    assert retrieval.store_of("Basel", "its key") is None
    own_alive = weakref.ref(own)
    del own
    gc.collect()
    assert own_alive() is not None  # nobody else keeps it
