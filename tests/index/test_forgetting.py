"""What is forgotten is gone: from answers, from the store, and from the bytes on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from refrag_components.exceptions import EmptyInputError, IndexFolderError
from refrag_components.index import RefragIndex, forget, index_info
from refrag_components.index.consent import has_agreed
from refrag_components.stores import MemoryStore, open_store
from refrag_components.text.documents import Document
from refrag_components.vectors import passage_key
from tests.fake_model import FakeModel, check

SECRET = "Eve Example lives in Gull Lane."
KEPT = "Rain fell on the mountain."


@pytest.fixture(params=["folder", "sqlite", "lancedb", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgres":
        server: str = request.getfixturevalue("postgres")
        return server
    urls = {"sqlite": f"sqlite://{tmp_path}/s.sqlite", "lancedb": f"lancedb://{tmp_path}/lance"}
    return urls.get(request.param)


@pytest.fixture
def filled(tmp_path: Path, model: FakeModel, url: str | None) -> Iterator[Path]:
    folder = tmp_path / "index"
    with RefragIndex.create(folder, model, passage_tokens=8, store=url) as index:
        index.add(
            [
                Document("eve", f"{SECRET}\n\nShe likes tea.", {"author": "Eve Example"}),
                Document("rain", KEPT),
                Document("both", f"{KEPT}\n\n{SECRET}"),
            ]
        )
    yield folder


def traces(folder: Path, model: FakeModel, text: str) -> list[str]:
    """Files below a folder that hold a passage, its key, its token ids or its vectors."""
    row = model.encode(text)
    needles = [
        text.encode(),
        passage_key(text, model.fingerprint).encode(),
        row.token_ids.astype("<i4").tobytes(),
        row.token_ids.astype("<u2").tobytes(),
        row.vectors.astype("<f2").tobytes()[:32],
        model.search_vector(text).tobytes()[:32],
    ]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        f"{path}: {i}"
        for path in files
        for i, needle in enumerate(needles)
        if needle in path.read_bytes()
    ]


@pytest.mark.parametrize("by", ["text", "documents"])
def test_documents_are_gone_from_every_byte(
    filled: Path, tmp_path: Path, model: FakeModel, by: str
) -> None:
    how = {"texts": ["Gull Lane"]} if by == "text" else {"documents": ["eve", "both", "nobody"]}
    assert sorted(forget(filled, **how)) == ["both", "eve"]  # type: ignore[arg-type]
    assert traces(tmp_path, model, SECRET) == []
    assert traces(tmp_path, model, "She likes tea.") == []
    assert not [path for path in filled.iterdir() if b"Eve Example" in path.read_bytes()]
    with RefragIndex.open(filled, model) as index:
        assert {hit.text for hit in index.search("Eve rain", k=9)} == {KEPT}
        check(index, model)


def test_everything_of_a_tenant_goes_with_the_index(
    filled: Path, tmp_path: Path, model: FakeModel, url: str | None
) -> None:
    assert sorted(forget(filled, everything=True)) == ["both", "eve", "rain"]
    assert list(filled.iterdir()) == []
    for text in (SECRET, KEPT):
        assert traces(tmp_path, model, text) == []
    if url is not None:
        with open_store(url) as store:
            assert list(store.yield_keys()) == []


def test_what_a_killed_run_left_behind_goes_too(tmp_path: Path, model: FakeModel) -> None:
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8) as index:
        index.add([Document("rain", KEPT)])
        index._writer._encode([SECRET], 1)  # stored, but its document was never committed
    forget(tmp_path / "index", documents=["nobody"])
    assert traces(tmp_path, model, SECRET) == []


def test_the_last_document_takes_the_search_file_with_it(tmp_path: Path, model: FakeModel) -> None:
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8) as index:
        index.add([Document("eve", SECRET)])
    (tmp_path / "index" / "index.faiss").write_bytes(b"of an earlier release")
    forget(tmp_path / "index", documents=["eve"])
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "meta.json",
        "store.sqlite",
    ]
    with RefragIndex.open(tmp_path / "index", model) as index:
        assert index.search("Eve") == []


def test_files_may_be_named_from_where_the_user_is(
    tmp_path: Path, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "eve.txt").write_text(SECRET)
    with RefragIndex.create(tmp_path / "index", model) as index:
        index.add_folder(tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    assert forget("index", documents=[Path("docs/eve.txt")]) == [str(tmp_path / "docs/eve.txt")]


def test_a_store_that_was_passed_is_passed_again(tmp_path: Path, model: FakeModel) -> None:
    store = MemoryStore()
    with RefragIndex.create(tmp_path / "index", model, store=store) as index:
        index.add([Document("eve", SECRET), Document("rain", KEPT)])
    with pytest.raises(IndexFolderError, match="pass it again"):
        forget(tmp_path / "index", documents=["eve"])
    forget(tmp_path / "index", documents=["eve"], store=store)
    assert len(store) == 1


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_forgets_nothing(filled: Path, text: str) -> None:
    with pytest.raises(EmptyInputError):
        forget(filled, texts=[text])
    assert index_info(filled).documents == 3


def test_a_store_that_only_the_folder_names_is_not_written(
    filled: Path, tmp_path: Path, url: str | None
) -> None:
    if url is None:
        pytest.skip("it keeps its own")
    moved = filled.rename(tmp_path / "moved")
    assert not has_agreed(moved, "store", str(index_info(moved).store))
    with pytest.raises(IndexFolderError, match="nobody has named"):
        forget(moved, everything=True)


def test_cleaning_up_ends_even_if_rows_cannot_be_told_apart(
    tmp_path: Path, model: FakeModel
) -> None:
    """A damaged page gave keys that no deletion matched, and the loop never ended."""
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8) as index:
        index.add([Document("rain", KEPT)])
        path = tmp_path / "index" / "store.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO discarded VALUES (CAST(x'ff41' AS TEXT))")
            connection.execute(
                "CREATE TRIGGER stubborn BEFORE DELETE ON discarded BEGIN SELECT RAISE(IGNORE); END"
            )
        index.add([])
        index.remove(["rain"])
        assert index.search("rain") == []
