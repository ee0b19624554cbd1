"""Markdown is read as what it says, without what serves its display."""

from __future__ import annotations

import json

import pytest

from refrag_components.text.extraction import extract
from tests.made_files import README


def test_link_targets_badges_and_comments_are_left_out() -> None:
    found = extract(README.encode(), ".md")
    assert found.title == "Harbour tools"
    assert found.text.split("\n\n") == [
        "# Harbour",
        "Reads tide tables, see the manual and `tide_table()`.",
        "| Port | Ships |\n| --- | --- |\n| Rosk | 12 |",
        "```python\nx = a * b  # not *emphasis*\n```",
    ]
    assert len(found.text) < len(README) * 0.5


@pytest.mark.parametrize("depth", [5, 15, 45, 300])
@pytest.mark.parametrize("mark", ["- ", "> "])
def test_what_is_deep_inside_stays(depth: int, mark: str) -> None:
    unit = "> " if mark == "> " else "  "
    last = unit * depth + mark
    lines = [f"{unit * i}{mark}point {i}" for i in range(depth)]
    found = extract("\n\n".join([*lines, f"{last}deep"]).encode(), ".md").text
    assert all(f"point {i}" in found for i in range(depth))
    assert found.endswith("deep")


def test_signs_that_are_no_markup_stay() -> None:
    source = "5 * 3 * 2 = 30, snake_case_name, a < b & c > d, $x_1 + y_1$, 50 %."
    assert extract(source.encode(), ".mdx").text == source


def test_markup_that_is_shown_stays() -> None:
    assert extract(b"```html\n<!-- kept --><nav>x</nav>\n```", ".md").text == (
        "```html\n<!-- kept --><nav>x</nav>\n```"
    )


def test_notebooks_are_read_cell_by_cell() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Tides\n", "See [them](https://example.org)."]},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"data": {"image/png": "AAAA"}}]},
        {"cell_type": "code", "source": []},
    ]
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}}
    assert extract(json.dumps(notebook).encode(), ".ipynb").text == (
        "# Tides\n\nSee them.\n\n```python\nx = 1\n```"
    )
