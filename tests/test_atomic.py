from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.atomic import atomic_file, atomic_folder


def test_a_file_appears_complete_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as scratch:
        scratch.write_text("half")
        assert not path.exists()
        scratch.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_stays_as_it_was_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as scratch:
        scratch.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_file(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_complete_and_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as scratch:
        (scratch / "inside").touch()
        assert not path.exists()
    assert [entry.name for entry in path.iterdir()] == ["inside"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_by_a_complete_one_and_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(path, replace=True) as scratch:
        (scratch / "new").touch()
        raise ZeroDivisionError
    with pytest.raises(OSError, match="folder"), atomic_folder(path) as scratch:
        (scratch / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["old"]
    with atomic_folder(path, replace=True) as scratch:
        (scratch / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]
