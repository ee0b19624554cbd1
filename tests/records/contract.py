"""What every collection of records must do, as tests to inherit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.records import FoundRecord, Record, RecordCollection
from refrag_components.vectors import ChunkVectors, unit_rows

WIDTH = 8
FINGERPRINT = "abc123"
ODD_NAMES = ["", "it's", 'a"b', "' OR '1'='1", "ключ", "a/b\\c..", "%", " ", "A", "a"]


def record(seed: int, *, text: str | None = None, tokens: int = 3, **others: Any) -> Record:
    """A record whose values depend on the seed; its chunk vectors survive float16."""
    generator = np.random.default_rng(seed)
    chunks = generator.standard_normal((3, 6)).astype(np.float16)
    values: dict[str, Any] = {
        "text": f"passage {seed}" if text is None else text,
        "vector": generator.standard_normal(WIDTH),
        "chunk_vectors": ChunkVectors(chunks, generator.integers(0, 50_000, 20), 8, FINGERPRINT),
        "token_vectors": generator.standard_normal((tokens, WIDTH)) if tokens else None,
        "metadata": {"source": f"file {seed}", "page": seed},
    }
    return Record(**values | others)


def maxsim(question: np.ndarray, tokens: np.ndarray | None) -> float:
    """The score of late interaction, as the definition has it."""
    assert tokens is not None
    return float(np.mean([max(q @ t for t in tokens) for q in unit_rows(question)]))


def texts(found: list[FoundRecord]) -> list[str]:
    return [each.text for each in found]


class RecordContract:
    """Inherit it and give the fixtures ``records`` and ``damage``."""

    #: What scores may differ by: values are kept in half precision.
    tolerance = 2e-3

    @pytest.fixture
    def records(self) -> RecordCollection:
        raise NotImplementedError

    @pytest.fixture
    def damage(self) -> Callable[[], object]:
        """Damages the chunk vectors of all records of ``records``; a parameter per kind."""
        raise NotImplementedError

    # -- finding ----------------------------------------------------------------------------------

    def test_what_was_stored_is_found_with_its_chunk_vectors(
        self, records: RecordCollection
    ) -> None:
        stored = [record(i) for i in range(5)]
        records.put(stored)
        for each in stored:
            (found,) = records.search(each.vector, k=1)
            assert found.chunk_vectors == each.chunk_vectors
            assert (found.text, found.key) == (each.text, each.key)
            assert found.metadata == each.metadata
            assert found.score == pytest.approx(1, abs=self.tolerance)

    def test_the_nearest_come_first(self, records: RecordCollection) -> None:
        stored = [record(i) for i in range(20)]
        records.put(stored)
        vector = np.random.default_rng(99).standard_normal(WIDTH)
        cosines = {each.text: float(each.vector @ unit_rows(vector[None])[0]) for each in stored}
        found = records.search(vector, k=7)
        assert texts(found) == sorted(cosines, key=lambda text: -cosines[text])[:7]
        assert [each.score for each in found] == pytest.approx(
            [cosines[each.text] for each in found], abs=self.tolerance
        )
        assert len(records.search(vector, k=30)) == 20

    def test_late_interaction_orders_by_the_tokens(self, records: RecordCollection) -> None:
        stored = [record(i, tokens=1 + i % 4) for i in range(20)]
        records.put(stored)
        generator = np.random.default_rng(98)
        vector, tokens = generator.standard_normal(WIDTH), generator.standard_normal((5, WIDTH))
        scores = {each.text: maxsim(tokens, each.token_vectors) for each in stored}
        found = records.search(vector, tokens, k=6)
        assert texts(found) == sorted(scores, key=lambda text: -scores[text])[:6]
        assert [each.score for each in found] == pytest.approx(
            [scores[each.text] for each in found], abs=self.tolerance
        )
        by_text = {each.text: each for each in stored}
        assert all(each.chunk_vectors == by_text[each.text].chunk_vectors for each in found)

    def test_late_interaction_compares_the_candidates(self, records: RecordCollection) -> None:
        records.put([record(i) for i in range(20)])
        generator = np.random.default_rng(97)
        vector, tokens = generator.standard_normal(WIDTH), generator.standard_normal((5, WIDTH))
        nearest = texts(records.search(vector, k=4))
        found = records.search(vector, tokens, k=10, candidates=4)
        assert sorted(texts(found)) == sorted(nearest)

    def test_a_record_without_tokens_is_found_by_its_vector_alone(
        self, records: RecordCollection
    ) -> None:
        records.put([record(1, tokens=0), record(2)])
        vector = record(1).vector
        assert texts(records.search(vector, k=5))[0] == "passage 1"
        assert texts(records.search(vector, np.ones((2, WIDTH)), k=5)) == ["passage 2"]

    def test_nothing_stored_nothing_found(self, records: RecordCollection) -> None:
        assert records.search(np.ones(WIDTH)) == []
        records.put([])
        records.delete([])
        records.delete([record(1).key])
        assert records.search(np.ones(WIDTH), np.ones((2, WIDTH))) == []

    def test_passages_of_any_text_length_and_many_tokens(self, records: RecordCollection) -> None:
        odd = record(1, text=' \n"Ünïcode" \\ {"$": 1} \'; DROP TABLE x; -- ' + "long " * 900)
        long = record(2, tokens=300)
        no_chunks = ChunkVectors(np.zeros((0, 6), np.float32), np.array([], int), 8, FINGERPRINT)
        empty = record(3, chunk_vectors=no_chunks, metadata={})
        records.put([odd, long, empty])
        for each in (odd, long, empty):
            (found,) = records.search(each.vector, k=1)
            assert (found.text, found.metadata) == (each.text, each.metadata)
            assert found.chunk_vectors == each.chunk_vectors
        (found,) = records.search(long.vector, long.token_vectors, k=1)
        assert found.text == long.text

    # -- changing ---------------------------------------------------------------------------------

    def test_the_same_text_is_replaced(self, records: RecordCollection) -> None:
        records.put([record(1), record(2)])
        records.put([record(1, vector=np.ones(WIDTH), metadata={"new": [1, None]})])
        found = records.search(np.ones(WIDTH), k=5)
        assert sorted(texts(found)) == ["passage 1", "passage 2"]
        assert found[0].metadata == {"new": [1, None]}

    def test_the_last_of_a_text_counts(self, records: RecordCollection) -> None:
        records.put([record(1), record(2, text="passage 1", metadata={"last": True})])
        (found,) = records.search(np.ones(WIDTH), k=5)
        assert found.metadata == {"last": True}

    def test_deletes(self, records: RecordCollection) -> None:
        records.put([record(i) for i in range(4)])
        records.delete([record(1).key, record(3).key, "unknown", "' OR '1'='1"])
        assert sorted(texts(records.search(np.ones(WIDTH)))) == ["passage 0", "passage 2"]
        records.put([record(3)])
        assert len(records.search(np.ones(WIDTH))) == 3

    def test_takes_many_at_once(self, records: RecordCollection) -> None:
        stored = [record(i) for i in range(150)]
        records.put(stored)
        assert len(records.search(np.ones(WIDTH), k=200)) == 150
        (found,) = records.search(stored[149].vector, k=1)
        assert found.text == "passage 149"

    def test_threads_share_a_collection(self, records: RecordCollection) -> None:
        records.put([record(999)])

        def work(first: int) -> None:
            for i in range(first, first + 4):
                records.put([record(i)])
                (found,) = records.search(record(i).vector, k=1)
                assert found.chunk_vectors == record(i).chunk_vectors

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(0, 16, 4)))
        assert len(records.search(np.ones(WIDTH), k=50)) == 17

    # -- tenants ----------------------------------------------------------------------------------

    @pytest.mark.parametrize(("one", "other"), [("a", "b"), ("", "b"), ("b", "")])
    def test_a_tenant_cannot_read_another(
        self, records: RecordCollection, one: str, other: str
    ) -> None:
        mine, theirs = records.for_tenant(one), records.for_tenant(other)
        assert (mine.tenant, theirs.tenant) == (one, other)
        theirs.put([record(i) for i in range(10)])
        assert mine.search(record(3).vector, k=50) == []
        assert mine.search(record(3).vector, record(3).token_vectors, k=50) == []
        mine.put([record(20)])
        assert texts(mine.search(record(3).vector, k=50)) == ["passage 20"]
        assert texts(mine.search(record(3).vector, np.ones((1, WIDTH)), k=50)) == ["passage 20"]
        assert len(theirs.search(record(3).vector, k=50)) == 10

    def test_candidates_are_those_of_the_tenant(self, records: RecordCollection) -> None:
        mine, theirs = records.for_tenant("a"), records.for_tenant("b")
        vector = np.ones(WIDTH)
        theirs.put([record(i, vector=vector) for i in range(30)])  # all nearer
        mine.put([record(40), record(41)])
        assert len(mine.search(vector, k=2)) == 2
        assert len(mine.search(vector, np.ones((2, WIDTH)), k=2, candidates=5)) == 2

    def test_a_tenant_cannot_change_or_delete_another(self, records: RecordCollection) -> None:
        mine, theirs = records.for_tenant("a"), records.for_tenant("b")
        theirs.put([record(1)])
        mine.put([record(1, metadata={"mine": True})])
        (found,) = theirs.search(record(1).vector)
        assert found.metadata == record(1).metadata
        mine.delete([found.key])
        assert mine.search(record(1).vector) == []
        assert texts(theirs.search(record(1).vector)) == ["passage 1"]

    def test_a_tenant_may_have_any_name(self, records: RecordCollection) -> None:
        for i, name in enumerate(ODD_NAMES):
            records.for_tenant(name).put([record(i)])
        for i, name in enumerate(ODD_NAMES):
            found = records.for_tenant(name).search(np.ones(WIDTH), k=50)
            assert texts(found) == [f"passage {i}"]

    # -- what goes wrong --------------------------------------------------------------------------

    def test_damaged_chunk_vectors_cost_only_these(
        self,
        records: RecordCollection,
        damage: Callable[[], object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        records.put([record(1), record(2)])
        damage()
        with caplog.at_level(logging.WARNING):
            found = records.search(record(1).vector, k=1)
        assert [(each.text, each.chunk_vectors) for each in found] == [("passage 1", None)]
        assert "are damaged" in caplog.text
        records.put([record(1)])
        assert records.search(record(1).vector, k=1)[0].chunk_vectors == record(1).chunk_vectors

    def test_vectors_of_another_width_are_refused(self, records: RecordCollection) -> None:
        records.put([record(1)])
        wide = record(2, vector=np.ones(WIDTH + 1), token_vectors=None)
        with pytest.raises(StoreError):
            records.put([wide])
        with pytest.raises(StoreError):
            records.search(np.ones(WIDTH + 1))
        assert texts(records.search(record(1).vector)) == ["passage 1"]

    def test_values_beyond_half_precision_leave_nothing_behind(
        self, records: RecordCollection
    ) -> None:
        huge = ChunkVectors(np.full((1, 6), 1e6), np.array([1]), 8, FINGERPRINT)
        with pytest.raises(InvalidVectorsError, match="float16"):
            records.put([record(1), record(2, chunk_vectors=huge)])
        assert records.search(np.ones(WIDTH)) == []

    @pytest.mark.parametrize("vector", [np.ones((1, WIDTH)), np.array([]), np.full(WIDTH, np.nan)])
    def test_what_is_no_search_vector_is_refused(
        self, records: RecordCollection, vector: np.ndarray
    ) -> None:
        with pytest.raises(InvalidVectorsError):
            records.search(vector)


class PackedContract(RecordContract):
    """Of databases that bring token vectors as bytes; inherit it and give ``replace_tokens``."""

    @pytest.fixture
    def replace_tokens(self) -> Callable[[str, bytes], object]:
        """Puts bytes in the place of the token vectors of the record with a text."""
        raise NotImplementedError

    @pytest.mark.parametrize(
        "tokens",
        [b"x" * 7, np.full((3, WIDTH), np.nan, "<f2").tobytes()],
        ids=["no vectors", "not finite"],
    )
    def test_damaged_token_vectors_cost_only_that_passage(
        self,
        records: RecordCollection,
        replace_tokens: Callable[[str, bytes], object],
        caplog: pytest.LogCaptureFixture,
        tokens: bytes,
    ) -> None:
        records.put([record(i) for i in range(3)])
        replace_tokens("passage 1", tokens)
        question = record(1).token_vectors
        with caplog.at_level(logging.WARNING):
            found = records.search(record(1).vector, question, k=3)
        assert sorted(texts(found)) == ["passage 0", "passage 2"]
        assert "token vectors of a record are damaged" in caplog.text
        assert texts(records.search(record(1).vector, k=1)) == ["passage 1"]
        records.put([record(1)])
        assert texts(records.search(record(1).vector, question, k=1)) == ["passage 1"]
