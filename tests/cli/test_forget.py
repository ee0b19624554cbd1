"""``refrag forget``: the user says what goes, and it goes for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.index import index_info
from tests.cli.conftest import Run


@pytest.mark.parametrize("how", ["document", "text"])
def test_a_document_is_deleted_and_named(refrag: Run, docs: Path, index: Path, how: str) -> None:
    value = docs / "harbour.md" if how == "document" else "dug in 1907"
    result = refrag("forget", index, f"--{how}", value)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(docs / "harbour.md")
    assert "1 deleted" in result.stderr
    assert "is still a file" in result.stderr
    assert index_info(index).documents == 1
    assert not any(b"dug in 1907" in path.read_bytes() for path in index.iterdir())


def test_everything_goes(refrag: Run, index: Path) -> None:
    result = refrag("forget", index, "--everything")
    assert result.exit_code == 0, result.output
    assert list(index.iterdir()) == []


def test_nothing_named_is_nothing_deleted(refrag: Run, index: Path) -> None:
    result = refrag("forget", index)
    assert result.exit_code == 2
    assert "--everything" in result.output
    assert index_info(index).documents == 2
    assert "0 deleted" in refrag("forget", index, "--text", "no such thing").stderr
    assert refrag("forget", index / "nowhere", "--everything").exit_code == 1
