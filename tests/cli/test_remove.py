from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_documents_and_folders_are_taken_out(refrag: Run, docs: Path, index: Path) -> None:
    result = refrag("remove", index, docs / "harbour.md")
    assert result.stdout.split() == [str(docs / "harbour.md")]
    assert refrag("info", index, "--documents").stdout.split() == [str(docs / "lighthouse.txt")]
    assert refrag("remove", index, docs).exit_code == 0
    assert refrag("info", index, "--documents").stdout == ""


def test_what_is_not_in_the_index_is_told(refrag: Run, docs: Path, index: Path) -> None:
    result = refrag("remove", index, "nowhere.txt")
    assert result.exit_code == 1
    assert "holds no document nowhere.txt" in result.stderr
    assert "--documents" in result.stderr
