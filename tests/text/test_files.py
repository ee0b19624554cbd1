"""Which files of a folder are documents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refrag_components.exceptions import DocumentError
from refrag_components.text.documents import Skipped, find_files, load_documents
from tests.text.test_documents import text


def found(folder: Path, **options: list[str]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, **options)]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Some words.")


def test_finds_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.md", "a.txt", "c.html", ".hidden.txt", ".git/x.txt", "b/.x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert names == ["a.txt", "b/a.md", "b/z.txt", "c.html"]


def test_paths_are_the_same_however_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").touch()
    (tmp_path / "link").symlink_to("docs")
    monkeypatch.chdir(tmp_path)
    expected = [tmp_path / "docs" / "a.txt"]
    for name in ("docs", "./docs/", tmp_path / "docs", "docs/../link"):
        assert list(find_files(name)) == expected


def test_a_missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"nowhere does not exist"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(DocumentError, match=r"nowhere does not exist"):
        load_documents(tmp_path / "nowhere")


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some words.")
    (tmp_path / "b.txt").touch()
    assert list(find_files(tmp_path / "a.txt")) == [tmp_path / "a.txt"]
    (document,) = load_documents(tmp_path / "a.txt")
    assert text(document) == "Some words."


def test_an_empty_folder_gives_nothing(tmp_path: Path) -> None:
    assert list(load_documents(tmp_path)) == []


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.txt").write_text("text")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed, opened = load_documents(tmp_path)
    assert closed == Skipped(
        str(tmp_path / "closed"), "is a folder that cannot be listed; allow this user to read it"
    )
    assert text(opened) == "text"


# -- what is left out ---------------------------------------------------------------------------


def test_what_gitignore_names_is_left_out_below_it_alone(tmp_path: Path) -> None:
    make(
        tmp_path, "a.log", "keep.log", "docs/b.log", "docs/private/c.txt", "private/d.txt", "e.txt"
    )
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n")
    (tmp_path / "docs" / ".gitignore").write_text("/private/\n")
    assert found(tmp_path) == ["e.txt", "keep.log", "private/d.txt"]


def test_a_folder_of_a_repository_is_read_by_the_repositorys_rules(tmp_path: Path) -> None:
    make(tmp_path, "repo/docs/_build/a.txt", "repo/docs/b.txt", "repo/docs/c.log", "repo/out/d.txt")
    (tmp_path / "repo" / ".git").mkdir()
    (tmp_path / "repo" / ".gitignore").write_text("docs/_build/\nout/\n")
    (tmp_path / ".gitignore").write_text("*.txt\n")
    assert found(tmp_path / "repo" / "docs") == ["b.txt", "c.log"]
    assert found(tmp_path / "repo" / "out") == ["d.txt"]  # asked for by name


@pytest.mark.parametrize("rules", ["\\\n*.log", "[z-a]\n", "*a" * 40 + "b\n", "\xff\xfe"])
def test_rules_that_make_no_sense_ignore_nothing_else(tmp_path: Path, rules: str) -> None:
    make(tmp_path, "a" * 60 + ".txt")
    (tmp_path / ".gitignore").write_text(rules)
    assert len(found(tmp_path)) == 1


def test_what_tools_put_into_projects_is_left_out(tmp_path: Path) -> None:
    make(
        tmp_path,
        "node_modules/x/readme.md",
        "env1/pyvenv.cfg",
        "env1/lib/a.txt",
        "web/package.json",
        "web/dist/a.html",
        "build/report.txt",
        "a.txt",
    )
    assert found(tmp_path) == ["a.txt", "build/report.txt", "web/package.json"]
    assert found(tmp_path / "web" / "dist") == ["a.html"]


def test_an_index_is_no_document(tmp_path: Path) -> None:
    make(tmp_path, "refrag-index/meta.json", "refrag-index/store.sqlite", "meta.json", "a.txt")
    assert found(tmp_path) == ["a.txt", "meta.json"]


def test_what_the_user_excludes_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "drafts/b.txt", "x/drafts/c.txt", "x/d.log", "x/e.txt")
    assert found(tmp_path, exclude=["drafts", "*.log"]) == ["a.txt", "x/e.txt"]
    assert found(tmp_path, exclude=["x/drafts/"]) == ["a.txt", "drafts/b.txt", "x/d.log", "x/e.txt"]
    assert found(tmp_path, exclude=["x/*.txt"]) == [
        "a.txt",
        "drafts/b.txt",
        "x/d.log",
    ]
