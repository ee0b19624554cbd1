from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import HARBOUR, Run
from tests.made_files import PAGE


def test_a_file_is_shown_as_it_is_read(refrag: Run, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    result = refrag("show", tmp_path / "a.html")
    assert result.stdout.startswith("# Ports of Eastport\n\n## 1 History")
    assert "Title: Ports of Eastport" in result.stderr


def test_what_was_guessed_and_what_terminals_follow_is_told(refrag: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Le port a été creusé en 1907.".encode("cp1252"))
    result = refrag("show", tmp_path / "a.txt")
    assert result.stdout == "Le port a été creusé en 1907.\n"
    assert "was read as cp1252" in result.stderr
    (tmp_path / "a.txt").write_text("The harbour\x1b[2J.")
    assert refrag("show", tmp_path / "a.txt").stdout == "The harbour\ufffd[2J.\n"


def test_the_passages_of_an_indexed_document_are_shown(
    refrag: Run, docs: Path, index: Path
) -> None:
    result = refrag("show", index, docs / "harbour.md")
    assert HARBOUR in result.stdout
    assert "--- passage 1 of 1: " in result.stderr
    assert " chunks" in result.stderr


def test_what_cannot_be_shown_is_told(refrag: Run, docs: Path, index: Path) -> None:
    (docs / "a.png").touch()
    for arguments, message in (
        ((docs / "nowhere.txt",), "nowhere.txt does not exist"),
        ((docs / "a.png",), "a.png is of a type that is not read (.png)"),
        ((index, "nowhere.txt"), "holds no document nowhere.txt"),
    ):
        result = refrag("show", *arguments)
        assert result.exit_code == 1
        assert message in result.stderr
    assert "--documents" in refrag("show", index).stderr
