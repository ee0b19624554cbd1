"""The documentation lists the kinds of rows in the words of the code."""

from __future__ import annotations

from pathlib import Path

from refrag_components.evaluation.reports.markdown import methods_table

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_documented_rows_are_those_of_the_code() -> None:
    assert "\n\n" + "\n".join(methods_table()) + "\n\n" in DOCS.read_text(encoding="utf-8")
