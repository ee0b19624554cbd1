"""What every store must do, as tests to inherit."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from refrag_components.stores import ChunkStore
from refrag_components.vectors import ChunkVectors, passage_key


def make(seed: int, n_tokens: int = 20, width: int = 6) -> ChunkVectors:
    """Chunk vectors whose values depend on the seed and survive float16."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((-(-n_tokens // 8), width)).astype(np.float16)
    return ChunkVectors(vectors, generator.integers(0, 50_000, n_tokens), 8, "abc123")


def key(seed: int) -> str:
    """The key that belongs to ``make(seed)``."""
    return passage_key(f"passage {seed}", "abc123")


class StoreContract:
    """Inherit it and give a ``store`` fixture."""

    @pytest.fixture
    def store(self) -> ChunkStore:
        raise NotImplementedError

    def test_returns_values_in_the_order_asked(self, store: ChunkStore) -> None:
        store.mset((key(i), make(i)) for i in range(5))
        assert store.mget([key(3), "unknown", key(0), key(3)]) == [make(3), None, make(0), make(3)]

    def test_nothing_asked_nothing_given(self, store: ChunkStore) -> None:
        store.mset([])
        store.mdelete([])
        assert store.mget([]) == []
        assert list(store.yield_keys()) == []

    def test_replaces(self, store: ChunkStore) -> None:
        store.mset([("a", make(1))])
        store.mset([("a", make(2)), ("a", make(3))])
        assert store.mget(["a"]) == [make(3)]
        assert list(store.yield_keys()) == ["a"]

    def test_deletes(self, store: ChunkStore) -> None:
        store.mset([("a", make(1)), ("b", make(2))])
        store.mdelete(["a", "unknown"])
        assert store.mget(["a", "b"]) == [None, make(2)]

    def test_yields_keys_by_prefix(self, store: ChunkStore) -> None:
        names = [f"{letter}{number}" for letter in "ab_%" for number in range(3)]
        store.mset((name, make(0)) for name in names)
        assert sorted(store.yield_keys()) == sorted(names)
        for letter in "ab_%":
            assert sorted(store.yield_keys(prefix=letter)) == [f"{letter}{n}" for n in range(3)]
        assert list(store.yield_keys(prefix="b1")) == ["b1"]
        assert list(store.yield_keys(prefix="c")) == []

    def test_many_threads(self, store: ChunkStore) -> None:
        failures: list[BaseException] = []

        def work(first: int) -> None:
            try:
                for i in range(first, first + 20):
                    store.mset([(key(i), make(i))])
                    assert store.mget([key(i)]) == [make(i)]
                    assert store.mget([key(0)])[0] in (None, make(0))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n * 20,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.mget([key(i) for i in range(120)]) == [make(i) for i in range(120)]
