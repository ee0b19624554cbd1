"""Indexes whose files were damaged, or whose last run was killed before its documents were in."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from unittest import mock

import pytest

from refrag_components.exceptions import StoreError
from refrag_components.index import RefragIndex
from refrag_components.text.documents import Document
from refrag_components.vectors import passage_key
from tests.fake_model import FakeModel, check, texts


def alter(index: RefragIndex, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(index.folder / "store.sqlite")
    with connection:
        connection.execute(statement, parameters)
    connection.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "altered", "foreign"])
def test_the_search_file_is_built_again(
    index: RefragIndex, model: FakeModel, docs: Path, damage: str
) -> None:
    index.add_folder(docs)
    index.close()
    path = index.folder / "search.npy"
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "altered": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        "foreign": b"something else",
    }
    path.unlink()
    if damage in contents:
        path.write_bytes(contents[damage])
    with RefragIndex.open(index.folder, model) as opened:
        check(opened, model)
    assert path.read_bytes() == whole


def test_a_search_file_that_is_behind_catches_up(
    index: RefragIndex, model: FakeModel, docs: Path
) -> None:
    index.add_texts(["First."])
    path = index.folder / "search.npy"
    old = path.read_bytes()
    index.add_folder(docs)
    index.remove([str(docs / "rain.md")])
    index.close()
    path.write_bytes(old)
    with RefragIndex.open(index.folder, model) as opened:
        check(opened, model)


def test_a_search_file_that_cannot_be_written_is_not_a_failure(
    index: RefragIndex, model: FakeModel, docs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (index.folder / "search.npy").unlink(missing_ok=True)
    (index.folder / "search.npy").mkdir()
    with caplog.at_level(logging.WARNING):
        index.add_folder(docs)
    assert "cannot be written" in caplog.text
    check(index, model)


def test_damaged_chunk_vectors_are_encoded_again_with_their_document(
    index: RefragIndex, model: FakeModel
) -> None:
    index.add([Document("a", "Rain fell.")])
    alter(index, "UPDATE chunk_vectors SET value = zeroblob(9)")
    index.add([Document("b", "Rain fell.")])
    assert index.store.corrupt_rows == 1
    check(index, model)


@pytest.mark.parametrize("vector", ["x'00'", "x'0000c07f'", "'text'"])
def test_damaged_search_vectors_are_reported_when_they_are_needed(
    index: RefragIndex, model: FakeModel, vector: str
) -> None:
    index.add_texts(["Rain fell.", "Hail fell."])
    alter(index, f"UPDATE passages SET vector = {vector} WHERE id = 1")
    assert len(index.search("rain")) == 2
    index.close()
    (index.folder / "search.npy").unlink()
    with pytest.raises(StoreError, match="index the documents again"):
        RefragIndex.open(index.folder, model)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE passages SET text = 'Snow fell.' WHERE text = 'Rain fell.'",
        "UPDATE passages SET text = CAST(x'ff' AS TEXT) WHERE text = 'Rain fell.'",
        "UPDATE documents SET metadata = '{' WHERE path = 'a'",
        "DELETE FROM documents WHERE path = 'a'",
    ],
)
def test_damaged_passages_are_left_out(index: RefragIndex, statement: str) -> None:
    index.add([Document("a", "Rain fell."), Document("b", "Hail fell.")])
    alter(index, statement)
    assert [hit.text for hit in index.search("rain", k=5)] == ["Hail fell."]


def fail_to_commit(index: RefragIndex, document: Document) -> None:
    """Leaves what a run leaves that is killed between encoding and committing a document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index._catalog, "add", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add([document])


def test_what_a_killed_run_left_is_used_by_the_next(index: RefragIndex, model: FakeModel) -> None:
    fail_to_commit(index, Document("a", "Rain fell."))
    alter(index, "UPDATE awaited SET since = since - 7200")
    index.add([Document("a", "Rain fell.")])
    assert model.encoded == ["Rain fell."]
    check(index, model)


def test_what_no_run_came_to_need_is_forgotten_in_time(
    index: RefragIndex, model: FakeModel
) -> None:
    index.add([Document("a", "Rain fell."), Document("b", "Hail fell.")])
    fail_to_commit(index, Document("a", "Rain and snow fell."))
    fail_to_commit(index, Document("c", "Hail fell."))
    index.add([Document("a", "Snow fell.")])
    left = passage_key("Rain and snow fell.", model.fingerprint)
    assert index.store.mget([left]) != [None]  # another process might be about to commit it
    alter(index, "UPDATE awaited SET since = since - 7200")
    index.add([])
    assert texts(index) == ["Hail fell.", "Snow fell."]
    check(index, model)


def test_what_another_run_is_about_to_commit_is_kept(index: RefragIndex, model: FakeModel) -> None:
    index.add([Document("a", "Rain fell.")])
    fail_to_commit(index, Document("b", "Rain fell."))
    index.remove(["a"])
    assert len(list(index.store.yield_keys())) == 1
