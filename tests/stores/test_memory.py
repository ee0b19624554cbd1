from __future__ import annotations

import pytest

from refrag_components.stores import MemoryStore
from tests.stores.contract import StoreContract, make

SIZE = make(0).nbytes


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_forgets_the_least_recently_used_first() -> None:
    store = MemoryStore(max_bytes=3 * SIZE)
    store.mset([("a", make(1)), ("b", make(2)), ("c", make(3))])
    store.mget(["a"])
    store.mset([("d", make(4))])
    assert store.mget(["a", "b", "c", "d"]) == [make(1), None, make(3), make(4)]
    assert (store.nbytes, len(store)) == (3 * SIZE, 3)


def test_counts_replaced_and_deleted_bytes() -> None:
    store = MemoryStore(max_bytes=2 * SIZE)
    for seed in range(10):
        store.mset([("a", make(seed))])
    assert store.nbytes == SIZE
    store.mdelete(["a"])
    assert store.nbytes == 0


def test_a_value_above_the_limit_is_not_kept() -> None:
    store = MemoryStore(max_bytes=SIZE - 1)
    store.mset([("a", make(1))])
    assert store.mget(["a"]) == [None]
    assert store.nbytes == 0


def test_without_a_limit_everything_is_kept() -> None:
    store = MemoryStore(max_bytes=None)
    store.mset((str(seed), make(seed)) for seed in range(50))
    assert len(store) == 50


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        MemoryStore(max_bytes=-1)
