from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pytest

from refrag_components.exceptions import CorruptVectorsError
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import ChunkVectors, passage_key
from tests.tiny import TEXT


class _BrokenStore:
    """A store that fails to read, to write, or both."""

    def __init__(self, *, reads: bool, writes: bool) -> None:
        self._inner = MemoryStore()
        self._reads, self._writes = reads, writes

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        if not self._reads:
            raise CorruptVectorsError("the row is garbage")
        return self._inner.mget(keys)

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        if not self._writes:
            raise OSError("the disk is full")
        self._inner.mset(pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self._inner.mdelete(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        yield from self._inner.yield_keys(prefix=prefix)


@pytest.fixture
def encoded(tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The texts of each call of the encoder."""
    calls: list[list[str]] = []
    encode = tiny_model.encode_passages

    def recording(texts: Sequence[str]) -> list[ChunkVectors]:
        calls.append(list(texts))
        return encode(texts)

    monkeypatch.setattr(tiny_model, "encode_passages", recording)
    return calls


def test_each_passage_is_encoded_once_and_then_remembered(
    tiny_model: RefragModel, encoded: list[list[str]]
) -> None:
    loader = PassageLoader(tiny_model, MemoryStore())
    parts = [PassagePart(TEXT[i]) for i in (0, 1, 0, 2)]
    first = loader.load(parts)
    second = loader.load(parts)
    assert encoded == [[TEXT[0], TEXT[1], TEXT[2]]]
    assert [p.cached for p in first] == [False] * 4
    assert [p.cached for p in second] == [True] * 4
    assert [p.vectors for p in first] == [p.vectors for p in second]
    assert first[0].vectors == first[2].vectors
    assert all(p.flaw is None and p.store_error is None for p in first + second)


def test_nothing_to_load(tiny_model: RefragModel) -> None:
    assert PassageLoader(tiny_model, MemoryStore()).load([]) == []


def test_a_passage_may_name_its_own_store(tiny_model: RefragModel) -> None:
    own, common = MemoryStore(), MemoryStore()
    PassageLoader(tiny_model, own).load([PassagePart(TEXT[0])])
    loader = PassageLoader(tiny_model, common)
    loaded = loader.load(
        [PassagePart(TEXT[0], own), PassagePart(TEXT[1], own), PassagePart(TEXT[0])]
    )
    assert [passage.cached for passage in loaded] == [True, False, False]
    assert len(own) == 2
    assert len(common) == 1


def _other_fingerprint(row: ChunkVectors) -> ChunkVectors:
    return ChunkVectors(row.vectors, row.token_ids, row.chunk_size, "beef")


def _other_width(row: ChunkVectors) -> ChunkVectors:
    return ChunkVectors(row.vectors[:, 1:], row.token_ids, row.chunk_size, row.fingerprint)


def _other_chunk_size(row: ChunkVectors) -> ChunkVectors:
    return ChunkVectors(row.vectors[:1], row.token_ids, row.n_tokens, row.fingerprint)


def _nan(row: ChunkVectors) -> ChunkVectors:
    assert row.halves is not None
    values = row.halves.copy()
    values[0, 0] = np.nan
    object.__setattr__(row, "_halves", values)  # no store can build such a value by itself
    return row


def _nan_in_single_precision(row: ChunkVectors) -> ChunkVectors:
    made = ChunkVectors(row.vectors, row.token_ids, row.chunk_size, row.fingerprint)
    values = row.vectors.copy()
    values[0, 0] = np.nan
    object.__setattr__(made, "vectors", values)
    return made


def _other_words(row: ChunkVectors) -> ChunkVectors:
    ids = row.token_ids[::-1]
    return ChunkVectors(row.vectors, ids, row.chunk_size, row.fingerprint)


def _beyond_the_vocabulary(row: ChunkVectors) -> ChunkVectors:
    ids = row.token_ids.copy()
    ids[1] = 2**31 - 1
    return ChunkVectors(row.vectors, ids, row.chunk_size, row.fingerprint)


@pytest.mark.parametrize(
    ("spoil", "flaw"),
    [
        (_other_words, "token ids say something else"),
        (_beyond_the_vocabulary, "token ids say something else"),
        (_other_fingerprint, "fingerprint beef"),
        (_other_width, "width 23"),
        (_other_chunk_size, "chunks of"),
        (_nan, "NaN"),
        (_nan_in_single_precision, "NaN"),
    ],
)
def test_a_row_of_something_else_is_encoded_again_and_replaced(
    tiny_model: RefragModel, spoil: Callable[[ChunkVectors], ChunkVectors], flaw: str
) -> None:
    good = tiny_model.encode_passages([TEXT[0]])[0]
    store, key = MemoryStore(), passage_key(TEXT[0], tiny_model.fingerprint)
    store.mset([(key, spoil(tiny_model.encode_passages([TEXT[0]])[0]))])
    loaded = PassageLoader(tiny_model, store).load([PassagePart(TEXT[0])])[0]
    assert not loaded.cached
    assert loaded.flaw is not None
    assert flaw in loaded.flaw
    assert loaded.vectors == good
    assert store.mget([key]) == [good]


def test_what_was_compared_once_is_not_compared_again_while_it_is_the_same_object(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, part = MemoryStore(), PassagePart(TEXT[0])
    loader = PassageLoader(tiny_model, store)
    loader.load([part])
    compared: list[int] = []
    differ = tiny_model.token_check.differ

    def counting(texts: Sequence[str], token_ids: Sequence[np.ndarray]) -> list[bool]:
        compared.append(len(texts))
        return differ(texts, token_ids)

    monkeypatch.setattr(tiny_model.token_check, "differ", counting)
    assert all(loader.load([part])[0].cached for _ in range(3))
    assert compared == [1, 0, 0]
    (row,) = store.mget([passage_key(TEXT[0], tiny_model.fingerprint)])
    assert row is not None
    store.mset([(passage_key(TEXT[0], tiny_model.fingerprint), _other_words(row))])
    assert not loader.load([part])[0].cached


@pytest.mark.parametrize(
    ("reads", "writes", "error"),
    [(False, True, "read: the row is garbage"), (True, False, "written: the disk is full")],
)
def test_a_store_that_fails_costs_time_and_nothing_else(
    tiny_model: RefragModel, reads: bool, writes: bool, error: str
) -> None:
    loader = PassageLoader(tiny_model, _BrokenStore(reads=reads, writes=writes))
    loader.load([PassagePart(TEXT[0])])
    loader.flush()  # that it cannot be written is known later
    loaded = loader.load([PassagePart(TEXT[0])])[0]
    assert loaded.vectors == tiny_model.encode_passages([TEXT[0]])[0]
    assert not loaded.cached
    assert loaded.store_error is not None
    assert error in loaded.store_error
