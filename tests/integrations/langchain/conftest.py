"""Documents, retrievers and models for the LangChain tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from transformers import LlamaConfig

from langchain_refrag import ChatRefrag
from refrag_components import registry
from refrag_components.configuration import RefragConfig
from refrag_components.modeling import RefragModel
from refrag_components.registry import PassageRegistry
from tests.tiny import save_tiny_decoder, save_tiny_encoder

HARBOUR = "The harbour lies north of the old town and was dug in 1907 by two hundred men."
RAIN = "Rain fell on the mountain for three days, then the river rose by two metres."
PRICES = "Prices rose 12.5% in 2019, fell 3% in 2020 and have been flat since then."


class ListRetriever(BaseRetriever):
    """Returns the same documents whatever is asked, at most k."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self.documents[:k]


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> PassageRegistry:
    """No passage of another test is known."""
    fresh = PassageRegistry()
    monkeypatch.setattr(registry, "_default", fresh)
    return fresh


@pytest.fixture
def documents() -> list[Document]:
    return [Document(page_content=text) for text in (HARBOUR, RAIN, PRICES)]


@pytest.fixture
def list_retriever(documents: list[Document]) -> ListRetriever:
    return ListRetriever(documents=documents)


@pytest.fixture
def chat(tiny_folder: Path) -> ChatRefrag:
    return ChatRefrag(model=str(tiny_folder), max_tokens=8)


@pytest.fixture(scope="session")
def other_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkpoint under another name."""
    folder = tmp_path_factory.mktemp("checkpoint") / "other"
    shutil.copytree(tiny_folder, folder)
    return folder


@pytest.fixture(scope="session")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of "bert", "llama" and "tiny": a checkpoint whose window holds twenty passages."""
    folder = tmp_path_factory.mktemp("roomy")
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=8192,
    )
    decoder = save_tiny_decoder(folder / "llama", config)
    encoder = save_tiny_encoder(folder / "bert")
    refrag = RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    RefragModel.from_base(refrag).save_pretrained(folder / "tiny")
    return folder
