"""Stores that hang, fail or lie cost an encoder pass, and nobody waits for them twice."""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from refrag_components.generation import store_guard
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.store_guard import StoreGuard, guard_of
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.memory import MemoryStore
from refrag_components.stores.sqlite import SQLiteStore
from refrag_components.vectors import ChunkVectors
from tests.stores.contract import make
from tests.tiny import TEXT


class OwnError(Exception):
    """Of a client that inherits from nothing we know."""


class SickStore(BaseChunkStore):
    """A store that fails, hangs or lies as it is told; where it hangs, a test sets ``timeout``."""

    timeout = 300.0  # a busy machine may begin the thread that reads late

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.reads = self.writes = 0
        self.fails: BaseException | None = None
        self.fails_to_write: BaseException | None = None
        self.lies: Any = None
        self.answers = threading.Event()
        self.answers.set()
        self.takes = threading.Event()
        self.takes.set()

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        self.reads += 1
        self.answers.wait()
        if self.fails:
            raise self.fails
        return self.inner.mget(keys) if self.lies is None else self.lies

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        self.writes += 1
        self.takes.wait()
        if self.fails_to_write:
            raise self.fails_to_write
        self.inner.mset(pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self.inner.mdelete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        yield from self.inner.yield_keys(prefix=prefix)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Iterator[SickStore]:
    store = SickStore()
    store.inner.mset([("a", make(1))])
    yield store
    store.answers.set()
    store.takes.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> StoreGuard:
    return StoreGuard(clock)


def test_a_store_that_is_well_is_read_and_written(guard: StoreGuard, store: SickStore) -> None:
    assert guard.read(store, ["a", "b"]) == ([make(1), None], None)
    guard.write(store, [("b", make(2))])
    assert guard.flush()
    assert store.inner.mget(["b"]) == [make(2)]
    assert guard.read(store, ["b"]) == ([make(2)], None)


@pytest.mark.parametrize(
    "failure",
    [OwnError("gone"), OSError("gone"), RuntimeError(), SystemExit(1), RecursionError("gone")],
)
def test_whatever_a_store_raises_is_a_miss(
    guard: StoreGuard, store: SickStore, failure: BaseException
) -> None:
    store.fails = failure
    rows, trouble = guard.read(store, ["a", "b"])
    assert rows == [None, None]
    assert trouble is not None
    assert trouble.startswith("chunk vectors could not be read: ")


@pytest.mark.parametrize(
    "lie", [[], [None] * 3, ["text", None], [b"", b""], 5, {"a": 1}, [make(1)], iter([])]
)
def test_whatever_is_no_chunk_vectors_is_a_miss(
    guard: StoreGuard, store: SickStore, lie: Any
) -> None:
    store.lies = lie
    rows, trouble = guard.read(store, ["a", "b"])
    assert rows == [None, None]
    assert trouble is not None


def test_a_store_that_failed_is_left_alone_for_longer_and_longer(
    guard: StoreGuard, store: SickStore, clock: Clock
) -> None:
    store.fails = OwnError("gone")
    pauses = []
    for _ in range(8):
        guard.read(store, ["a"])
        before, start = store.reads, clock.now
        while store.reads == before:
            clock.now += 1
            rows, trouble = guard.read(store, ["a"])
            assert rows == [None]
            assert trouble is not None
        pauses.append(clock.now - start)
        clock.now += 1000
    assert pauses[0] == 5
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300
    store.fails = None
    assert guard.read(store, ["a"]) == ([make(1)], None)
    store.fails = OwnError("gone")
    guard.read(store, ["a"])
    clock.now += 5
    store.fails = None
    assert guard.read(store, ["a"]) == ([make(1)], None)


def test_a_store_that_hangs_is_waited_for_once(
    guard: StoreGuard, store: SickStore, clock: Clock
) -> None:
    store.answers.clear()
    store.timeout = 0.05
    rows, trouble = guard.read(store, ["a"])
    assert rows == [None]
    assert trouble is not None
    assert "did not answer in 0.05 seconds" in trouble
    for _ in range(5):
        clock.now += 1000  # the pause is over, but the call is still out
        assert guard.read(store, ["a"])[0] == [None]
    assert store.reads == 1
    (call,) = guard._stuck
    store.answers.set()
    call.join()
    store.timeout = 300.0
    assert guard.read(store, ["a"]) == ([make(1)], None)


def test_nobody_waits_for_writing(guard: StoreGuard, store: SickStore) -> None:
    store.takes.clear()
    guard.write(store, [("b", make(2))])
    guard.write(store, [("c", make(3))])
    assert guard.read(store, ["a", "b", "c"]) == ([make(1), make(2), make(3)], None)
    assert not guard.flush(0.01)
    store.takes.set()
    assert guard.flush()
    assert store.inner.mget(["b", "c"]) == [make(2), make(3)]
    assert guard._waiting == {}


def test_what_cannot_be_written_is_told_later_and_tried_again_later(
    guard: StoreGuard, store: SickStore, clock: Clock
) -> None:
    store.fails_to_write = OwnError("the disk is full")
    guard.write(store, [("b", make(2))])
    guard.flush()
    rows, trouble = guard.read(store, ["a", "b"])
    assert rows == [make(1), None]
    assert trouble == "chunk vectors could not be written: the disk is full"
    guard.write(store, [("b", make(2))])
    guard.flush()
    assert store.writes == 1
    clock.now += 5
    store.fails_to_write = None
    guard.write(store, [("b", make(2))])
    guard.flush()
    assert guard.read(store, ["b"]) == ([make(2)], None)


def test_what_waits_to_be_written_is_bounded(
    guard: StoreGuard, store: SickStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_guard, "_WAITING_BYTES", 3 * make(0).nbytes)
    store.takes.clear()
    for i in range(50):
        guard.write(store, [(f"k{i}", make(i))])
    assert list(guard._waiting) == ["k47", "k48", "k49"]


def test_a_guard_does_not_keep_its_store() -> None:
    store = SickStore()
    guard, reference, number = guard_of(store), weakref.ref(store), id(store)
    assert guard_of(store) is guard
    assert guard_of(SickStore()) is not guard
    guard.read(store, ["a"])
    guard.write(store, [("a", make(1))])
    guard.flush()
    for thread in threading.enumerate():
        if thread.name.startswith("refrag-store"):
            thread.join()
    del store
    gc.collect()
    assert reference() is None
    assert number not in store_guard._by_store


def test_a_sick_store_of_one_tenant_does_not_touch_the_others(
    tiny_model: RefragModel, store: SickStore
) -> None:
    well = SickStore()
    loader = PassageLoader(tiny_model, MemoryStore())
    loader.load([PassagePart(TEXT[0], well)])
    loader.flush()
    store.answers.clear()
    store.takes.clear()
    store.timeout = 0.05
    parts = [PassagePart(TEXT[0], well), PassagePart(TEXT[0], store), PassagePart(TEXT[1], well)]
    first, second, third = loader.load(parts)
    assert (first.cached, first.store_error) == (True, None)
    assert second.vectors == first.vectors
    assert second.store_error is not None
    assert (third.cached, third.store_error) == (False, None)


def test_threads_share_one_guard(store: SickStore) -> None:
    found: list[list[ChunkVectors | None]] = []

    def work(number: int) -> None:
        for i in range(20):
            key = f"{number}.{i}"
            guard_of(store).write(store, [(key, make(i))])
            found.append(guard_of(store).read(store, [key, "a"])[0])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard_of(store).flush()
    assert all(None not in rows for rows in found)
    assert len(store.inner) == 161


def test_a_store_without_weak_references_is_guarded_too() -> None:
    class Slotted:
        __slots__ = ("inner",)

        def __init__(self) -> None:
            self.inner = MemoryStore()

        def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
            return self.inner.mget(keys)

    store: Any = Slotted()
    assert guard_of(store).read(store, ["a"]) == ([None], None)


def test_retrievers_wait_for_writing_as_long_as_for_reading(
    tiny_model: RefragModel, store: SickStore
) -> None:
    loader = PassageLoader(tiny_model, store, waits=True)
    loader.load([PassagePart(TEXT[0])])
    assert len(store.inner) == 2
    store.timeout = 0.05
    store.takes.clear()
    assert loader.load([PassagePart(TEXT[1])])[0].vectors.n_chunks
    assert len(store.inner) == 2


def test_a_locked_file_is_waited_for_once(tiny_model: RefragModel, tmp_path: Path) -> None:
    """SQLite itself waits for a minute, and would at every request."""
    with SQLiteStore(tmp_path / "s.sqlite") as store:
        PassageLoader(tiny_model, store, waits=True).load([PassagePart(TEXT[0])])
        store.database._pause()
        other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE t (x)")
        store.timeout = 0.05
        loader = PassageLoader(tiny_model, store)
        guard = guard_of(store)
        try:
            errors = [loader.load([PassagePart(TEXT[0])])[0].store_error for _ in range(3)]
            stuck = list(guard._stuck)
        finally:
            other.close()
        assert None not in errors
        assert len(stuck) == 1
        stuck[0].join()
        guard.flush()
