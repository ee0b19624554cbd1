"""Documents, engines and models for the LlamaIndex tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index.llms.refrag import RefragLLM
from refrag_components.prompts import retrieved
from refrag_components.prompts.retrieved import Retrieval, Retrieved, begin_request
from refrag_components.stores.memory import MemoryStore

HARBOUR = "The harbour lies north of the old town and was dug in 1907 by two hundred men."
RAIN = "Rain fell on the mountain for three days,\nthen the river rose by 'two' \"metres\"."
PRICES = "Prices rose 12.5% in 2019, fell 3% in 2020 and have been flat since then."
PASSAGES = (HARBOUR, RAIN, PRICES)
QUESTION = "When was the harbour dug?"


class ListRetriever(BaseRetriever):
    """Returns the same nodes whatever is asked."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self.nodes)


@pytest.fixture(autouse=True)
def nothing_retrieved() -> None:
    """No passage of another test is known in this thread."""
    retrieved._requests.set(())


def retrieve(query: str, *passages: str) -> None:
    """As if a ``RefragRetriever`` had returned passages here, outside any request."""
    request = Retrieved()
    begin_request(request)
    request.add(Retrieval.of(query, passages))


@pytest.fixture
def folder(roomy_folder: Path) -> str:
    """A tiny random checkpoint, k=4, with a window of 8192 positions."""
    return str(roomy_folder / "tiny")


@pytest.fixture
def llm(folder: str) -> RefragLLM:
    """Keeps its chunk vectors to itself, so that every test starts without any."""
    return RefragLLM(model=folder, max_tokens=8, store=MemoryStore())


@pytest.fixture
def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, metadata={"page": i}), score=1.0 - i / 10)
        for i, text in enumerate(PASSAGES)
    ]


@pytest.fixture
def list_retriever(nodes: list[NodeWithScore]) -> ListRetriever:
    return ListRetriever(nodes)


@pytest.fixture
def index() -> VectorStoreIndex:
    """An ordinary index; every passage is as near as any other, so their ids decide the order."""
    nodes = [
        TextNode(id_=f"node-{i}", text=text, metadata={"file": f"{i}.txt"})
        for i, text in enumerate(PASSAGES)
    ]
    return VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=8))
