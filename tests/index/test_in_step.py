"""The index holds what the folders hold, and can be asked where it may only be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from refrag_components.exceptions import DocumentError, StoreError
from refrag_components.index import RefragIndex, index_info, roots
from refrag_components.stores.common import database
from refrag_components.text.documents import Document
from tests.fake_model import FakeModel, check, texts


def test_a_renamed_folder_is_held_once(index: RefragIndex, model: FakeModel, docs: Path) -> None:
    index.add_folder(docs)
    moved = docs.rename(docs.with_name("moved"))
    report = index.add_folder(moved)
    assert (report.added, report.removed, report.absent) == (3, 3, [])
    assert all(hit.source.startswith(str(moved)) for hit in index.search("rain", k=9))
    check(index, model)


def test_after_the_last_file_is_deleted_nothing_is_answered(index: RefragIndex, docs: Path) -> None:
    index.add_folder(docs)
    for path in docs.iterdir():
        path.unlink()
    assert index.add_folder(docs).removed == 3
    assert index.search("harbour") == []
    with pytest.raises(DocumentError, match="holds no file that can be read"):
        index.add_folder(docs)


def test_a_deleted_folder_is_dropped_when_another_is_indexed(
    index: RefragIndex, docs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "a" / "b"
    other.mkdir(parents=True)
    (other / "secret.txt").write_text("The password is 1234.")
    index.add_folder(other)
    shutil.rmtree(tmp_path / "a")
    assert index.add_folder(docs).removed == 1
    assert not any("password" in text for text in texts(index))


@pytest.mark.parametrize("state", ["empty", "missing"])
def test_a_folder_whose_drive_may_not_be_mounted_is_kept_and_named(
    index: RefragIndex, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    (drive / "a.txt").write_text("Snow fell.")
    index.add_folder(drive)
    shutil.rmtree(drive)
    if state == "empty":
        drive.mkdir()
    device = docs.stat().st_dev
    known = roots.known_roots(index._catalog) | {str(drive): device + 1}
    monkeypatch.setattr("refrag_components.index.roots.known_roots", lambda _: known)
    report = index.add_folder(docs)
    assert (report.removed, report.absent) == (0, [str(drive)])
    assert "Snow fell." in texts(index)
    report = index.add_folder(docs, prune=True)
    assert (report.removed, report.absent) == (1, [])
    assert "Snow fell." not in texts(index)


def test_what_is_now_left_out_is_dropped(index: RefragIndex, docs: Path) -> None:
    index.add_folder(docs)
    assert index.add_folder(docs, exclude=["*.md"]).removed == 1
    (docs / ".gitignore").write_text("list.html\n")
    assert index.add_folder(docs).removed == 1
    assert [Path(p).name for p in index.documents()] == ["harbour.txt", "rain.md"]


def test_a_folder_that_cannot_be_listed_keeps_its_documents_and_fails_nothing(
    index: RefragIndex, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (docs / "closed").mkdir()
    (docs / "closed" / "a.txt").write_text("Snow fell.")
    index.add_folder(docs)
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = index.add_folder(docs)
    assert (report.unchanged, report.removed) == (3, 0)
    reason = "is a folder that cannot be listed; allow this user to read it"
    assert [skipped.reason for skipped in report.skipped] == [reason]
    assert "Snow fell." in texts(index)


def test_folders_inside_one_another_leave_each_other_alone(index: RefragIndex, docs: Path) -> None:
    (docs / "drafts").mkdir()
    (docs / "drafts" / "a.txt").write_text("Snow fell.")
    index.add_folder(docs / "drafts")
    index.add_folder(docs, exclude=["drafts"])
    assert "Snow fell." in texts(index)


def test_a_file_is_indexed_alone_and_dropped_when_it_is_gone(
    index: RefragIndex, docs: Path
) -> None:
    assert index.add_folder(docs / "rain.md").added == 1
    (docs / "rain.md").unlink()
    assert index.add_folder(docs / "harbour.txt").removed == 1


def test_texts_without_files_stay(index: RefragIndex, docs: Path) -> None:
    index.add_texts(["Snow fell."])
    index.add([Document("/nowhere/a.txt", "Hail fell.")])
    index.add_folder(docs)
    assert {"Snow fell.", "Hail fell."} <= set(texts(index))


def test_the_same_text_in_many_files_takes_one_place(index: RefragIndex) -> None:
    index.add([Document(f"copy{i:02}", "The harbour was dug in 1907.") for i in range(40)])
    index.add([Document("other", "The harbour is deep.")])
    hits = index.search("When was the harbour dug?", k=2)
    assert [hit.text for hit in hits] == ["The harbour was dug in 1907.", "The harbour is deep."]
    assert hits[0].sources == tuple(f"copy{i:02}" for i in range(40))
    assert ("other",) in {hit.sources for hit in index.search("harbour", k=50)}


def test_what_was_guessed_is_reported(index: RefragIndex, docs: Path) -> None:
    (docs / "old.txt").write_bytes("Le port a été creusé en 1907.".encode("cp1252"))
    report = index.add_folder(docs)
    assert [Path(warning.path).name for warning in report.warnings] == ["old.txt"]
    assert "was read as cp1252" in report.warnings[0].reason


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, docs: Path, tmp_path: Path) -> Iterator[Path]:
    """An index in a folder in which nothing can be written."""
    folder = tmp_path / "fixed"
    with RefragIndex.create(folder, FakeModel(), passage_tokens=8) as index:
        index.add_folder(docs)
    monkeypatch.setattr(
        database, "os", SimpleNamespace(**vars(database.os) | {"access": lambda *_: False})
    )
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())} == before


def test_an_index_that_may_only_be_read_can_be_asked_and_shown(
    read_only: Path, model: FakeModel, docs: Path
) -> None:
    with RefragIndex.open(read_only, model) as index:
        (hit,) = index.search("when was the harbour dug", k=1)
        assert hit.text == "The harbour was dug in 1907."
        assert index.store.mget([hit.key]) == [model.encode(hit.text)]
        assert len(index.documents()) == 3
        with pytest.raises(StoreError, match=r"readonly|read-only"):
            index.add_texts(["Snow fell."])
    assert index_info(read_only).documents == 3
