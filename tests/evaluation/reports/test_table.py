from __future__ import annotations

from refrag_components.evaluation.reports.table import markdown_table


def test_a_column_of_names_and_columns_of_numbers() -> None:
    assert markdown_table(("store", "seconds", "rows"), [("SQLite", "1.5", 3), ("", "", "")]) == [
        "| store | seconds | rows |",
        "| --- | ---: | ---: |",
        "| SQLite | 1.5 | 3 |",
        "|  |  |  |",
    ]


def test_columns_of_words() -> None:
    lines = markdown_table(("method", "what it reads"), [("`none`", "nothing")], numbers=False)
    assert lines[1:] == ["| --- | --- |", "| `none` | nothing |"]
