"""The notebook runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[3] / "cookbooks" / "02_llamaindex_query_engine.ipynb"
MODEL = "refrag-smollm2-135m"


def run(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """Runs every cell and returns all that was printed, and the picture at the end."""
    NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    return printed, outputs[-1]["data"]["text/html"]


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def check(printed: str, picture: str) -> None:
    modes = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+)$", printed, flags=re.MULTILINE)
    assert [mode for mode, *_ in modes] == [
        "compact",
        "refine",
        "tree_summarize",
        "accumulate",
        "simple_summarize",
    ]
    for _, calls, tokens, positions, encoded in modes:
        assert int(calls) in (1, 4)
        assert 0 < int(positions) < int(tokens)
        assert int(encoded) == 0
    assert "6 nodes, 6 passages in the store" in printed
    budgets = re.findall(r"^ *([01]\.\d+) +(\d+) +(\d+) ", printed, flags=re.MULTILINE)
    assert [float(budget) for budget, _, _ in budgets] == [1.0, 0.25, 0.0]
    plain, quarter, nothing = (int(positions) for _, _, positions in budgets)
    assert plain == int(budgets[0][1]) > quarter > nothing
    drawn = BeautifulSoup(picture, "lxml")
    read, compressed = (
        sum(len(piece.text) for piece in drawn.select(f"article {tag}")) for tag in ("mark", "i")
    )
    assert read > 0
    assert compressed > (read + compressed) / 4


def test_runs_with_a_tiny_model(notebook: nbformat.NotebookNode, roomy_folder: Path) -> None:
    for cell in notebook.cells:
        cell.source = cell.source.replace(MODEL, str(roomy_folder / "tiny"))
    check(*run(notebook))


def test_outputs_are_kept(notebook: nbformat.NotebookNode) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    check("".join(output.get("text", "") for output in outputs), outputs[-1]["data"]["text/html"])


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
def test_runs_with_the_bundled_model(notebook: nbformat.NotebookNode) -> None:
    check(*run(notebook))
