"""The notebook runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[3] / "cookbooks" / "01_swap_into_langchain.ipynb"
MODEL = "refrag-smollm2-135m"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def run(notebook: nbformat.NotebookNode) -> str:
    """Runs every cell and returns all that was printed."""
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_runs_with_a_tiny_model(notebook: nbformat.NotebookNode, roomy_folder: Path) -> None:
    for cell in notebook.cells:
        source = cell.source.replace(MODEL, str(roomy_folder / "tiny"))
        cell.source = source.replace(ENCODER, str(roomy_folder / "bert"))
    printed = run(notebook)
    assert "4 passages were known, 0 were encoded" in printed
    assert "4 passages came from the store" in printed
    budgets = re.findall(r"^ *([01]\.\d+) +(\d+) +(\d+) ", printed, flags=re.MULTILINE)
    assert [float(budget) for budget, _, _ in budgets] == [1.0, 0.5, 0.25, 0.0]
    tokens, positions = zip(*((int(t), int(p)) for _, t, p in budgets), strict=True)
    assert positions[0] == tokens[0]  # the plain prompt
    assert list(positions) == sorted(positions, reverse=True)


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
def test_runs_with_the_bundled_model(notebook: nbformat.NotebookNode) -> None:
    assert "4 passages came from the store" in run(notebook)
