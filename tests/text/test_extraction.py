"""The documentation names every type of file that is read."""

from __future__ import annotations

from pathlib import Path

from refrag_components.text.extraction import _OFFICE, _PLAIN, SUFFIXES
from refrag_components.text.office import OFFICE

DOCS = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")


def test_every_office_format_has_its_reader() -> None:
    assert set(_OFFICE) == set(OFFICE)


def test_every_suffix_is_documented() -> None:
    rows = [line for line in DOCS.splitlines() if line.startswith("| ")]
    formats = [suffix for suffix in SUFFIXES if suffix not in _PLAIN]
    assert [suffix for suffix in formats if sum(f"`{suffix}`" in row for row in rows) != 1] == []
