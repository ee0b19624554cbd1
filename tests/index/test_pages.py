"""Passages know on which page of their document they begin."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from refrag_components.index import RefragIndex
from refrag_components.stores.common import database
from refrag_components.text.documents import Document, load_document
from tests.fake_model import FakeModel
from tests.made_files import pdf

HARBOUR = "The harbour of Eastport was dug in 1907 and is deep enough for any ship."
LIGHT = "The lighthouse was built in 1884 on the southern cliff by the keeper."
FISH = "The fish market opens at five in the morning on every day but Sunday."


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "port.pdf").write_bytes(pdf(HARBOUR, "", LIGHT, FISH))
    (folder / "note.txt").write_text(HARBOUR.replace("1907", "1908"))
    return folder


@pytest.fixture
def index(docs: Path, tmp_path: Path) -> Iterator[RefragIndex]:
    with RefragIndex.create(tmp_path / "index", FakeModel(), passage_tokens=24) as index:
        index.add_folder(docs)
        yield index


def pages(index: RefragIndex) -> dict[str, int | None]:
    return {hit.text: hit.page for hit in index.search("When?", 9)}


def test_a_file_says_where_its_pages_begin(docs: Path) -> None:
    document = load_document(docs / "port.pdf")
    assert isinstance(document, Document)
    assert [number for _, number in document.pages] == [1, 3, 4]
    for text, page in ((HARBOUR, 1), (LIGHT, 3), (FISH, 4)):
        assert document.page_at(document.text.index(text[:20])) == page
        assert document.page_at(document.text.index(text[:20]) + 15) == page
    text = load_document(docs / "note.txt")
    assert isinstance(text, Document) and text.page_at(5) is None


def test_hits_have_pages(index: RefragIndex) -> None:
    found = pages(index)
    assert {found[text] for text in found if "1907" in text} == {1}
    assert {found[text] for text in found if "1884" in text} == {3}
    assert {found[text] for text in found if "five" in text} == {4}
    assert {found[text] for text in found if "1908" in text} == {None}
    places = {hit.place.rpartition("/")[2] for hit in index.search("When?", 9)}
    assert places >= {"port.pdf, page 1", "port.pdf, page 4", "note.txt"}


def without_pages(folder: Path) -> None:
    """What an earlier version left."""
    with sqlite3.connect(folder / "store.sqlite") as connection:
        connection.execute("ALTER TABLE passages DROP COLUMN page")
        connection.execute("UPDATE documents SET digest = '2:' || substr(digest, 3)")
    connection.close()


def test_an_earlier_index_learns_its_pages(index: RefragIndex, docs: Path) -> None:
    index.close()
    without_pages(index.folder)
    with RefragIndex.open(index.folder, FakeModel()) as again:
        assert set(pages(again).values()) == {None}
        assert again.add_folder(docs).updated == 2
        assert set(pages(again).values()) == {None, 1, 3, 4}


def test_an_earlier_index_that_may_only_be_read(
    index: RefragIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.close()
    without_pages(index.folder)
    monkeypatch.setattr(database, "_is_read_only", lambda path: True)
    with RefragIndex.open(index.folder, FakeModel()) as again:
        assert set(pages(again).values()) == {None}
