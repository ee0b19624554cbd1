"""Documents, retrievers and models for the LangChain tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from langchain_refrag import ChatRefrag
from refrag_components.prompts import retrieved
from refrag_components.prompts.retrieved import Retrieval, Retrieved, begin_request
from refrag_components.stores.common.base import ChunkStore

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
def nothing_retrieved() -> None:
    """No passage of another test is known in this thread."""
    retrieved._requests.set(())


def retrieve(query: str, *passages: str, store: ChunkStore | None = None) -> None:
    """As if a ``RefragRetriever`` had returned passages here, outside any run."""
    request = Retrieved()
    begin_request(request)
    request.add(Retrieval.of(query, passages, store))


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
