"""The notebook runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import LlamaConfig

from refrag_components.configuration import RefragConfig
from refrag_components.modeling import RefragModel
from refrag_components.weights import bundled_names
from tests.tiny import save_tiny_decoder, save_tiny_encoder

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


@pytest.fixture
def roomy_folder(tmp_path: Path) -> Path:
    """A tiny checkpoint whose window holds four passages uncompressed."""
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )
    decoder = save_tiny_decoder(tmp_path / "llama", config)
    encoder = save_tiny_encoder(tmp_path / "bert")
    refrag = RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    RefragModel.from_base(refrag).save_pretrained(tmp_path / "tiny")
    return tmp_path


def test_runs_with_a_tiny_model(notebook: nbformat.NotebookNode, roomy_folder: Path) -> None:
    for cell in notebook.cells:
        source = cell.source.replace(MODEL, str(roomy_folder / "tiny"))
        cell.source = source.replace(ENCODER, str(roomy_folder / "bert"))
    assert "4 passages came from the store" in run(notebook)


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
@pytest.mark.skipif(MODEL not in bundled_names(), reason="the checkpoint is not bundled")
def test_runs_with_the_bundled_model(notebook: nbformat.NotebookNode) -> None:
    assert "4 passages came from the store" in run(notebook)
