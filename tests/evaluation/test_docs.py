"""The documentation names the rows that there are, in the words of their list."""

from __future__ import annotations

from pathlib import Path

from refrag_components.evaluation.reports.markdown import methods_table

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_rows_that_are_documented_are_those_that_there_are() -> None:
    assert "\n\n" + "\n".join(methods_table()) + "\n\n" in DOCS.read_text(encoding="utf-8")
