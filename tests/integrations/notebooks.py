"""What the tests of all notebooks share."""

from __future__ import annotations

import re
from typing import NamedTuple

import nbformat
from bs4 import BeautifulSoup
from nbclient import NotebookClient

MODEL = "refrag-smollm2-135m"
READS = [(1.0, "drop"), (0.25, "drop"), (0.1, "drop"), (0.25, "compress"), (0.0, "compress")]


class Outputs(NamedTuple):
    """All that was printed, and the picture at the end."""

    printed: str
    picture: str


def outputs(notebook: nbformat.NotebookNode) -> Outputs:
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in shown)
    return Outputs(printed, shown[-1]["data"]["text/html"])


def run(notebook: nbformat.NotebookNode) -> Outputs:
    NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
    return outputs(notebook)


def check_closing(shown: Outputs) -> None:
    """The same question, in full and with less, and a picture of what was read."""
    row = r"^ *([01]\.\d+) +(drop|compress) +(\d+) +(\d+) "
    rows = re.findall(row, shown.printed, flags=re.MULTILINE)
    assert [(float(budget), rest) for budget, rest, _, _ in rows] == READS * (len(rows) // 5)
    assert rows
    for table in (rows[i : i + 5] for i in range(0, len(rows), 5)):
        plain, quarter, tenth, kept, compressed = (int(positions) for *_, positions in table)
        assert plain == int(table[0][2])  # the plain prompt
        assert plain > quarter > tenth
        assert kept > max(quarter, compressed)
    drawn = BeautifulSoup(shown.picture, "lxml")
    read, left_out = (
        sum(len(piece.text) for piece in drawn.select(f"article {tag}")) for tag in ("mark", "s")
    )
    assert read > 0
    assert left_out > (read + left_out) / 4
