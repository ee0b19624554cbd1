"""RefragRetriever beyond the standard suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever

from langchain_refrag import RefragDocument, RefragRetriever
from refrag_components.exceptions import UnknownModelError
from refrag_components.prompts.retrieved import retrieved_by_hand
from refrag_components.stores.memory import MemoryStore
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever


class PlainRetriever(BaseRetriever):
    """Knows no k."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


class FilteringRetriever(PlainRetriever):
    """Takes a keyword, but not k."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, source: str = ""
    ) -> list[Document]:
        return self.documents


def test_documents_stay_as_they_are(list_retriever: ListRetriever) -> None:
    list_retriever.documents[0] = Document(id="1", page_content=HARBOUR, metadata={"page": 3})
    plain = list_retriever.invoke("x")
    wrapped = RefragRetriever(retriever=list_retriever).invoke("x")
    assert all(after is before for before, after in zip(plain, wrapped, strict=True))


def test_documents_with_vectors_keep_all_else(
    list_retriever: ListRetriever, tiny_folder: Path
) -> None:
    list_retriever.documents[0] = Document(id="1", page_content=HARBOUR, metadata={"page": 3})
    plain = list_retriever.invoke("x")
    wrapped = RefragRetriever(retriever=list_retriever, model=str(tiny_folder)).invoke("x")
    assert all(isinstance(document, RefragDocument) for document in wrapped)
    for before, after in zip(plain, wrapped, strict=True):
        assert (after.id, after.page_content) == (before.id, before.page_content)
        assert after.metadata.items() > before.metadata.items()


def test_passages_and_their_store_are_noted(list_retriever: ListRetriever) -> None:
    store = MemoryStore()
    RefragRetriever(retriever=list_retriever, store=store).invoke("x")
    (retrieval,) = retrieved_by_hand()
    assert (retrieval.query, retrieval.passages) == ("x", (HARBOUR, RAIN, PRICES))
    assert retrieval.store is store
    assert len(store) == 0


def test_with_a_model_the_vectors_are_made(
    list_retriever: ListRetriever, tiny_folder: Path
) -> None:
    store = MemoryStore()
    retriever = RefragRetriever(retriever=list_retriever, store=store, model=str(tiny_folder))
    documents = retriever.invoke("x")
    keys = [document.metadata["refrag_key"] for document in documents]
    assert store.mget(keys) == [
        document.chunk_vectors for document in documents if isinstance(document, RefragDocument)
    ]
    assert len(store) == 3


async def test_async_is_sync(list_retriever: ListRetriever) -> None:
    retriever = RefragRetriever(retriever=list_retriever, k=2)
    assert await retriever.ainvoke("x") == retriever.invoke("x")
    assert await retriever.ainvoke("x", k=1) == retriever.invoke("x", k=1)
    assert {retrieval.passages for retrieval in retrieved_by_hand()} == {
        (HARBOUR, RAIN),
        (HARBOUR,),
    }


@pytest.mark.parametrize("kind", [ListRetriever, PlainRetriever, FilteringRetriever])
def test_k_works_with_any_retriever(kind: type[BaseRetriever], documents: list[Document]) -> None:
    retriever = RefragRetriever(retriever=kind(documents=documents), k=2)  # type: ignore[call-arg]
    assert len(retriever.invoke("x")) == 2
    assert len(retriever.invoke("x", k=1)) == 1
    assert len(retriever.invoke("x", k=9)) == 3


def test_k_reaches_a_vector_store() -> None:
    texts = [f"{HARBOUR} Version {i}." for i in range(9)]
    store = InMemoryVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=8))
    retriever = RefragRetriever(retriever=store.as_retriever())
    assert len(retriever.invoke("x")) == 4
    assert len(retriever.invoke("x", k=7)) == 7


async def test_k_reaches_a_vector_store_that_searches_async() -> None:
    texts = [f"{HARBOUR} Version {i}." for i in range(9)]
    store = InMemoryVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=8))
    assert len(await RefragRetriever(retriever=store.as_retriever(), k=7).ainvoke("x")) == 7


def test_k_must_be_positive(list_retriever: ListRetriever) -> None:
    with pytest.raises(ValueError, match="k"):
        RefragRetriever(retriever=list_retriever, k=0)


def test_unknown_model(list_retriever: ListRetriever) -> None:
    with pytest.raises(UnknownModelError):
        RefragRetriever(retriever=list_retriever, model="no-such-model").invoke("x")


def test_empty_and_blank_documents(tiny_folder: Path) -> None:
    documents = [Document(page_content=text) for text in ("", " \n", "Short.", PRICES)]
    retriever = RefragRetriever(
        retriever=ListRetriever(documents=documents), store=MemoryStore(), model=str(tiny_folder)
    )
    assert [document.page_content for document in retriever.invoke("x")] == [
        document.page_content for document in documents
    ]
    assert RefragRetriever(retriever=ListRetriever(documents=[])).invoke("x") == []


def test_callbacks_see_both_retrievers(list_retriever: ListRetriever) -> None:
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.parents: list[bool] = []

        def on_retriever_start(self, *_: object, **kwargs: object) -> None:
            self.parents.append(kwargs.get("parent_run_id") is not None)

    handler = Handler()
    RefragRetriever(retriever=list_retriever).invoke("x", {"callbacks": [handler]})
    assert handler.parents == [False, True]


class TestConfigurationAndKeywords:
    """The two ways to filter per request: dropping one hands over another tenant's documents."""

    TEXTS = (HARBOUR, RAIN)

    @pytest.fixture
    def search(self) -> VectorStoreRetriever:
        tenants = [{"tenant": "a"}, {"tenant": "b"}]
        embeddings = DeterministicFakeEmbedding(size=8)
        return InMemoryVectorStore.from_texts(self.TEXTS, embeddings, tenants).as_retriever()

    @staticmethod
    def only_a(document: Document) -> bool:
        return document.metadata["tenant"] == "a"

    async def test_keywords(self, search: VectorStoreRetriever) -> None:
        retriever = RefragRetriever(retriever=search)
        for found in (
            retriever.invoke("q", filter=self.only_a),
            await retriever.ainvoke("q", filter=self.only_a),
        ):
            assert [document.page_content for document in found] == [HARBOUR]

    @pytest.mark.parametrize("nested", [False, True])
    async def test_configuration(self, search: VectorStoreRetriever, nested: bool) -> None:
        inner: Any = search.configurable_fields(search_kwargs=ConfigurableField(id="search"))
        if nested:
            inner = EnsembleRetriever(retrievers=[inner], weights=[1.0])
        retriever = RefragRetriever(retriever=inner)
        config: Any = {"configurable": {"search": {"filter": self.only_a}}}
        for found in (
            retriever.invoke("q", config),
            await retriever.ainvoke("q", config),
            (RunnablePassthrough() | retriever).invoke("q", config),
            await (RunnablePassthrough() | retriever).ainvoke("q", config),
            retriever.batch(["q"], config)[0],
            retriever.with_config(config).invoke("q"),
        ):
            assert [document.page_content for document in found] == [HARBOUR]
        assert len(retriever.invoke("q")) == 2

    def test_any_runnable(self, search: VectorStoreRetriever) -> None:
        for inner in (
            RunnableLambda(str.lower) | search,
            RunnableLambda(lambda query: search.invoke(query)),
            search.with_retry(),
        ):
            assert len(RefragRetriever(retriever=inner).invoke("Q")) == 2
            assert len(RefragRetriever(retriever=inner, k=1).invoke("Q")) == 1

    def test_what_the_query_is_made_of_may_be_anything(self, search: VectorStoreRetriever) -> None:
        inner = RunnableLambda(lambda turn: turn["input"]) | search
        found = RefragRetriever(retriever=inner).invoke({"input": "q", "history": []})  # type: ignore[arg-type]
        assert len(found) == 2
