"""The documentation names every type of file that is read."""

from __future__ import annotations

from pathlib import Path

from refrag_components.text.extraction import _FORMATS, SUFFIXES, _office, _plain
from refrag_components.text.office import OFFICE

DOCS = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")


def test_every_office_format_has_its_reader() -> None:
    read = {suffix for form in _FORMATS for suffix in form.suffixes if form.read is _office}
    assert read == set(OFFICE)


def test_every_suffix_is_documented() -> None:
    rows = [line for line in DOCS.splitlines() if line.startswith("| ")]
    plain = {suffix for form in _FORMATS for suffix in form.suffixes if form.read is _plain}
    formats = [suffix for suffix in SUFFIXES if suffix not in plain]
    assert [suffix for suffix in formats if sum(f"`{suffix}`" in row for row in rows) != 1] == []
