from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refrag_components.exceptions import StoreError
from refrag_components.records import faiss_index
from refrag_components.records.faiss import FaissRecords
from refrag_components.records.faiss_index import VectorIndex
from refrag_components.vectors import unit_rows
from tests.records.contract import WIDTH, PackedContract, record, texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


class TestFaissRecords(PackedContract):
    @pytest.fixture
    def records(self, folder: Path) -> FaissRecords:
        return FaissRecords(folder)

    @pytest.fixture(params=["substr(chunks, 1, 40)", "x''", "chunks || x'00'", "'text'"])
    def damage(self, request: pytest.FixtureRequest, folder: Path) -> Callable[[], None]:
        def damage() -> None:
            (path,) = folder.glob("*/records.sqlite")
            with sqlite3.connect(path) as connection:
                connection.execute(f"UPDATE records SET chunks = {request.param}")

        return damage

    @pytest.fixture
    def replace_tokens(self, folder: Path) -> Callable[[str, bytes], None]:
        def replace(text: str, tokens: bytes) -> None:
            (path,) = folder.glob("*/records.sqlite")
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE records SET tokens = ? WHERE text = ?", [tokens, text])

        return replace


def test_a_folder_is_opened_again(folder: Path) -> None:
    FaissRecords(folder, tenant="a").put([record(i) for i in range(5)])
    again = FaissRecords(folder, tenant="a")
    (found,) = again.search(record(3).vector, k=1)
    assert found.chunk_vectors == record(3).chunk_vectors
    again.close()
    again.close()
    assert texts(again.search(record(3).vector, k=1)) == ["passage 3"]


def test_another_process_s_changes_are_found(folder: Path) -> None:
    reader, writer = FaissRecords(folder), FaissRecords(folder)
    writer.put([record(i) for i in range(5)])
    assert len(reader.search(np.ones(WIDTH))) == 5
    writer.put([record(6), record(2, metadata={"new": True})])
    writer.delete([record(0).key])
    found = {each.text: each.metadata for each in reader.search(np.ones(WIDTH))}
    assert len(found) == 5
    assert "passage 0" not in found
    assert found["passage 2"] == {"new": True}


def test_token_vectors_may_be_kept_as_bits(folder: Path) -> None:
    records = FaissRecords(folder, quantised=True)
    records.put([record(i, tokens=4) for i in range(5)])
    signs = np.where(record(3, tokens=4).token_vectors > 0, 1.0, -1.0)  # type: ignore[operator]
    (found,) = records.search(np.ones(WIDTH), signs, k=1)
    assert found.text == "passage 3"
    assert found.score == pytest.approx(1, abs=1e-3)


def test_a_file_of_another_program_is_left_alone(folder: Path) -> None:
    records = FaissRecords(folder)
    records.put([record(1)])
    records.close()
    (path,) = folder.glob("*/records.sqlite")
    path.write_bytes(b"something else")
    with pytest.raises(StoreError, match="not a SQLite file"):
        FaissRecords(folder).search(np.ones(WIDTH))
    assert path.read_bytes() == b"something else"


def test_a_search_while_others_write(folder: Path) -> None:
    writer, reader = FaissRecords(folder), FaissRecords(folder)
    writer.put([record(0)])
    done = threading.Event()

    def write() -> None:
        for i in range(1, 60):
            writer.put([record(i % 7)])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        found = reader.search(record(0).vector, k=3)
        assert all(each.chunk_vectors is not None for each in found)
    thread.join()
    assert len(reader.search(record(0).vector, k=20)) == 7


def test_many_passages_are_found_in_lists_whatever_was_changed_since(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "_EXACT", 200)
    mine, theirs = FaissRecords(folder, tenant="a"), FaissRecords(folder, tenant="b")
    theirs.put([record(i) for i in range(150)])  # all compared
    mine.put([record(i) for i in range(250)])
    assert texts(mine.search(record(7).vector, k=1)) == ["passage 7"]
    assert mine._index is not None
    assert mine._index.in_lists
    mine.delete([record(7).key, record(8).key])
    mine.put([record(9, metadata={"new": True}), *(record(i) for i in range(250, 300))])
    for opened in (mine, FaissRecords(folder, tenant="a")):
        for i in (0, 120, 249, 299):
            (found,) = opened.search(record(i).vector, k=1)
            assert found.chunk_vectors == record(i).chunk_vectors
        assert opened.search(record(9).vector, k=1)[0].metadata == {"new": True}
        assert not {"passage 7", "passage 8"} & {*texts(opened.search(record(7).vector, k=30))}
        (late,) = opened.search(record(260).vector, record(260).token_vectors, k=1)
        assert late.text == "passage 260"
    assert texts(theirs.search(record(7).vector, k=1)) == ["passage 7"]


class TestVectorIndex:
    VECTORS = unit_rows(np.random.default_rng(0).standard_normal((3000, 16)))

    def made(self, monkeypatch: pytest.MonkeyPatch, exact: int, at_once: int) -> VectorIndex:
        monkeypatch.setattr(faiss_index, "_EXACT", exact)
        index = VectorIndex(16)
        for start in range(0, len(self.VECTORS), at_once):
            part = self.VECTORS[start : start + at_once]
            index.add(np.arange(start, start + len(part)) + 7, part)
        return index

    def test_few_vectors_are_all_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        index = self.made(monkeypatch, 10_000, 500)
        assert not index.in_lists
        found = index.search(self.VECTORS[5], 20)
        nearest = np.argsort(-self.VECTORS @ self.VECTORS[5])[:20] + 7
        assert [number for number, _ in found] == nearest.tolist()

    @pytest.mark.parametrize("at_once", [100, 3000])
    def test_many_vectors_are_found_in_lists(
        self, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        index = self.made(monkeypatch, 500, at_once)
        assert index.in_lists
        recalls = []
        for i in range(0, 3000, 100):
            found = index.search(self.VECTORS[i], 10)
            assert found[0][0] == i + 7
            assert found[0][1] == pytest.approx(1, abs=1e-4)
            nearest = np.argsort(-self.VECTORS @ self.VECTORS[i])[:10] + 7
            recalls.append(len({number for number, _ in found} & set(nearest.tolist())) / 10)
        assert np.mean(recalls) > 0.6  # random vectors have no neighbourhoods to speak of
