"""The notebook runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.integrations.notebooks import MODEL, Outputs, check_closing, outputs, run

NOTEBOOK = Path(__file__).parents[3] / "cookbooks" / "02_llamaindex_query_engine.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def check(shown: Outputs) -> None:
    printed = shown.printed
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
    check_closing(shown)


def test_runs_with_a_tiny_model(notebook: nbformat.NotebookNode, roomy_folder: Path) -> None:
    for cell in notebook.cells:
        cell.source = cell.source.replace(MODEL, str(roomy_folder / "tiny"))
    check(run(notebook))


def test_outputs_are_kept(notebook: nbformat.NotebookNode) -> None:
    check(outputs(notebook))


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
def test_runs_with_the_bundled_model(notebook: nbformat.NotebookNode) -> None:
    check(run(notebook))
