"""What every store must do, as tests to inherit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.stores import (
    BaseChunkStore,
    ChunkStore,
    forget_everything,
    forget_texts,
    open_store,
)
from refrag_components.stores.common.rows import RowStore
from refrag_components.vectors import CODECS, ChunkVectors, passage_key


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

    def test_forgets_by_text_and_by_tenant(self, store: ChunkStore) -> None:
        store.mset((key(i), make(i)) for i in range(5))
        forget_texts(store, [" passage 1\n", "passage 3", "never stored"], "abc123")
        assert store.mget([key(1), key(2), key(3)]) == [None, make(2), None]
        forget_texts(store, ["passage 2"], "another model")
        assert store.mget([key(2)]) == [make(2)]
        forget_everything(store)
        assert list(store.yield_keys()) == []
        assert store.mget([key(i) for i in range(5)]) == [None] * 5
        forget_everything(store)
        store.mset([(key(1), make(1))])
        assert store.mget([key(1)]) == [make(1)]

    def test_yields_keys_by_prefix(self, store: ChunkStore) -> None:
        names = [f"{letter}{number}" for letter in "ab_%" for number in range(3)]
        store.mset((name, make(0)) for name in names)
        assert sorted(store.yield_keys()) == sorted(names)
        for letter in "ab_%":
            assert sorted(store.yield_keys(prefix=letter)) == [f"{letter}{n}" for n in range(3)]
        assert list(store.yield_keys(prefix="b1")) == ["b1"]
        assert list(store.yield_keys(prefix="c")) == []

    @pytest.mark.parametrize("name", ["ключ", "鍵 🗝", "it's", 'a"b', "a\\b", "a/b?c#d", " a ", "A"])
    def test_any_text_is_a_key(self, store: ChunkStore, name: str) -> None:
        store.mset([(name, make(1)), (name.lower() + "x", make(2))])
        assert store.mget([name]) == [make(1)]
        assert name in store.yield_keys(prefix=name)
        store.mdelete([name])
        assert store.mget([name, name.lower() + "x"]) == [None, make(2)]

    def test_keys_that_look_like_a_filter_are_plain_text(self, store: ChunkStore) -> None:
        names = ['a"] or id >= ["', "like 'a%'", "{keys}", "') OR ('' = '"]
        store.mset([*((name, make(0)) for name in names), ("other", make(1))])
        assert store.mget(names) == [make(0)] * len(names)
        store.mdelete(names)
        assert list(store.yield_keys()) == ["other"]

    def test_keeps_values_of_every_length(self, store: ChunkStore) -> None:
        values = {f"k{n}": make(n, n_tokens=n) for n in (0, 1, 7, 8, 9, 300)}
        store.mset(values.items())
        assert store.mget(list(values)) == list(values.values())

    def test_keeps_large_token_ids(self, store: ChunkStore) -> None:
        value = ChunkVectors(make(1).vectors[:1], np.array([0, 2**31 - 1]), 8, "abc123")
        store.mset([("a", value)])
        assert store.mget(["a"]) == [value]

    def test_takes_many_at_once(self, store: ChunkStore) -> None:
        pairs = [(key(i), make(i)) for i in range(150)]
        store.mset(pairs)
        assert store.mget([k for k, _ in pairs]) == [value for _, value in pairs]
        store.mdelete([k for k, _ in pairs[:149]])
        assert list(store.yield_keys()) == [key(149)]

    def test_many_threads(self, store: ChunkStore) -> None:
        failures: list[BaseException] = []

        def work(first: int) -> None:
            try:
                for i in range(first, first + 10):
                    store.mset([(key(i), make(i))])
                    assert store.mget([key(i)]) == [make(i)]
                    assert store.mget([key(0)])[0] in (None, make(0))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n * 10,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.mget([key(i) for i in range(80)]) == [make(i) for i in range(80)]

    def test_threads_replace_one_value(self, store: ChunkStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: store.mset([("a", make(i)), ("b", make(i))]), range(16)))
        a, b = store.mget(["a", "b"])
        assert a == b
        assert a in [make(i) for i in range(16)]
        assert sorted(store.yield_keys()) == ["a", "b"]

    # -- the same, awaited ----------------------------------------------------------------------

    async def test_awaited_calls_do_the_same(self, store: BaseChunkStore) -> None:
        await store.amset((key(i), make(i)) for i in range(5))
        await store.amset([(key(4), make(9))])
        assert await store.amget([key(4), "unknown", key(0)]) == [make(9), None, make(0)]
        await store.amdelete([key(0), "unknown"])
        assert sorted([k async for k in store.ayield_keys()]) == sorted(key(i) for i in range(1, 5))
        prefix = key(2)[:9]
        assert [k async for k in store.ayield_keys(prefix=prefix)] == [key(2)]
        assert [k async for k in store.ayield_keys(prefix="%")] == []

    async def test_nothing_asked_nothing_given_when_awaited(self, store: BaseChunkStore) -> None:
        await store.amset([])
        await store.amdelete([])
        assert await store.amget([]) == []
        assert [k async for k in store.ayield_keys()] == []

    async def test_many_tasks(self, store: BaseChunkStore) -> None:
        async def work(i: int) -> None:
            await store.amset([(key(i), make(i))])
            assert await store.amget([key(i)]) == [make(i)]

        await asyncio.gather(*(work(i) for i in range(40)))
        assert store.mget([key(i) for i in range(40)]) == [make(i) for i in range(40)]


class DatabaseContract(StoreContract):
    """For stores in a database; give the fixtures ``tenants``, ``urls`` and ``damage`` too."""

    codecs: ClassVar[Sequence[str]] = tuple(CODECS)  # those that one place can hold
    ascending: ClassVar[bool] = False  # whether keys come in order

    @pytest.fixture
    def tenants(self) -> tuple[BaseChunkStore, BaseChunkStore]:
        """Two stores of different tenants in one database, by one client of the user's."""
        raise NotImplementedError

    @pytest.fixture
    def urls(self) -> tuple[str, str]:
        """URLs of two tenants' stores; nothing else has the database open."""
        raise NotImplementedError

    @pytest.fixture
    def damage(self) -> Callable[[], object]:
        """Damages row "a" of ``store``, which has a row "b" too; one parameter per kind."""
        raise NotImplementedError

    def test_tenants_cannot_read_change_or_list_each_other(
        self, tenants: tuple[BaseChunkStore, BaseChunkStore]
    ) -> None:
        one, other = tenants
        one.mset([(key(1), make(1)), ("both", make(2))])
        other.mset([("both", make(3))])
        assert other.mget([key(1), "both"]) == [None, make(3)]
        assert one.mget(["both"]) == [make(2)]
        assert list(other.yield_keys()) == ["both"]
        assert list(other.yield_keys(prefix=key(1))) == []
        other.mdelete([key(1), "both"])
        assert one.mget([key(1), "both"]) == [make(1), make(2)]
        assert list(other.yield_keys()) == []

    def test_closing_a_store_leaves_others_open(
        self, tenants: tuple[BaseChunkStore, BaseChunkStore]
    ) -> None:
        one, other = tenants
        other.mset([("a", make(1))])
        one.close()
        assert other.mget(["a"]) == [make(1)]

    def test_values_outlive_the_store_in_every_codec(self, urls: tuple[str, str]) -> None:
        url, other_url = urls
        for codec in self.codecs:
            with open_store(f"{url}{'&' if '?' in url else '?'}codec={codec}") as store:
                store.mset([(codec, make(1))])
        kept = [ChunkVectors.from_bytes(make(1).to_bytes(codec)) for codec in self.codecs]
        with open_store(url) as store:
            assert store.mget(self.codecs) == kept
        with open_store(other_url) as store:
            assert list(store.yield_keys()) == []

    def test_a_closed_store_says_so(self, urls: tuple[str, str]) -> None:
        store = open_store(urls[0])
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.mget(["a"])

    def test_a_url_that_is_refused_leaves_the_database_free(self, urls: tuple[str, str]) -> None:
        unknown = urls[0] + ("&" if "?" in urls[0] else "?") + "codec=int9"
        with pytest.raises(StoreError, match="codec") as refused:
            open_store(unknown)
        open_store(urls[0]).close()
        del refused  # until here its traceback held all that was open, as a debugger would

    def test_a_damaged_row_is_a_miss_until_it_is_stored_again(
        self, store: RowStore, damage: Callable[[], object], caplog: pytest.LogCaptureFixture
    ) -> None:
        value = make(1, n_tokens=400, width=1000)  # Milvus keeps it in several parts
        other = make(2, width=1000)
        store.mset([("a", value), ("b", other)])
        damage()
        with caplog.at_level(logging.WARNING):
            assert store.mget(["a", "b"]) == [None, other]
        assert store.corrupt_rows == 1
        assert "row a is damaged" in caplog.text
        store.mset([("a", value)])
        assert store.mget(["a"]) == [value]
        assert store.corrupt_rows == 1

    def test_a_value_that_does_not_fit_the_codec_leaves_nothing_behind(
        self, store: BaseChunkStore
    ) -> None:
        huge = ChunkVectors(np.array([[1e6]]), np.array([1]), 4, "f")
        with pytest.raises(InvalidVectorsError, match="float16"):
            store.mset([("a", make(1)), ("b", huge)])
        assert list(store.yield_keys()) == []

    def test_keys_come_in_pages(
        self, store: BaseChunkStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # LanceDB gives all keys at once.
        monkeypatch.setattr(f"{type(store).__module__}._KEYS_PER_PAGE", 3, raising=False)
        given = list if self.ascending else sorted
        for count in (5, 6, 7):
            names = ["K", *(f"k{i:02}" for i in range(count)), "z", "ä"]
            store.mset((name, make(0)) for name in names)
            assert given(store.yield_keys()) == names
            assert given(store.yield_keys(prefix="k")) == names[1:-2]
