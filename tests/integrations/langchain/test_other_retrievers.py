"""RefragRetriever around LangChain's other retrievers, in an unmodified chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MergerRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_classic.retrievers.document_compressors import (
    DocumentCompressorPipeline,
    LLMChainExtractor,
)
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.stores import InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter

from langchain_refrag import ChatRefrag, RefragRetriever
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
QUESTION = "When was the harbour dug?"
TEXTS = [HARBOUR, RAIN, PRICES]


def collection(*texts: str) -> InMemoryVectorStore:
    return InMemoryVectorStore.from_texts(list(texts), EMBEDDINGS)


def mmr() -> BaseRetriever:
    return collection(*TEXTS, f"{RAIN} Again.").as_retriever(
        search_type="mmr", search_kwargs={"k": 3, "fetch_k": 4, "lambda_mult": 0.2}
    )


def ensemble() -> BaseRetriever:
    retrievers = [collection(HARBOUR, RAIN).as_retriever(), collection(RAIN, PRICES).as_retriever()]
    return EnsembleRetriever(retrievers=retrievers, weights=[0.5, 0.5])


def multi_query() -> BaseRetriever:
    model = FakeListChatModel(responses=["When was it dug?\nWho dug the harbour?"])
    return MultiQueryRetriever.from_llm(collection(*TEXTS).as_retriever(), model)


def split() -> BaseRetriever:
    pipeline = DocumentCompressorPipeline(
        transformers=[CharacterTextSplitter(separator="\n", chunk_size=100, chunk_overlap=0)]
    )
    return ContextualCompressionRetriever(
        base_compressor=pipeline, base_retriever=collection(*TEXTS).as_retriever()
    )


def extracted() -> BaseRetriever:
    """The passages are what a model has made of the documents."""
    model = FakeListChatModel(responses=[text[:60] for text in TEXTS])
    return ContextualCompressionRetriever(
        base_compressor=LLMChainExtractor.from_llm(model),
        base_retriever=collection(*TEXTS).as_retriever(),
    )


def parent() -> BaseRetriever:
    retriever = ParentDocumentRetriever(
        vectorstore=InMemoryVectorStore(EMBEDDINGS),
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(separator=" ", chunk_size=30, chunk_overlap=0),
    )
    retriever.add_documents([Document(page_content=text) for text in TEXTS])
    retriever.search_kwargs = {"k": 20}
    return retriever


def merged() -> BaseRetriever:
    """Several collections."""
    return MergerRetriever(retrievers=[collection(text).as_retriever() for text in TEXTS])


def chain(retriever: BaseRetriever, model: ChatRefrag) -> Runnable[Any, Any]:
    def format_docs(documents: list[Document]) -> str:
        return "\n\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
    return {"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt | model


ALL = pytest.mark.parametrize(
    "make", [mmr, ensemble, multi_query, split, extracted, parent, merged]
)


@ALL
def test_every_passage_is_compressed(make: Callable[[], BaseRetriever], chat: ChatRefrag) -> None:
    retriever = make()
    plain = retriever.invoke(QUESTION)
    assert len(plain) == 3
    report = chain(RefragRetriever(retriever=retriever), chat).invoke(QUESTION)
    refrag = report.response_metadata["refrag"]
    assert refrag["cache_hits"] + refrag["cache_misses"] == 3
    assert refrag["context_positions"] < refrag["context_tokens"] / 1.5
    tokens = sum(len(chat.get_token_ids(document.page_content)) for document in plain)
    assert refrag["context_tokens"] == tokens


@ALL
async def test_async(make: Callable[[], BaseRetriever], chat: ChatRefrag) -> None:
    report = await chain(RefragRetriever(retriever=make()), chat).ainvoke(QUESTION)
    refrag = report.response_metadata["refrag"]
    assert refrag["cache_hits"] + refrag["cache_misses"] == 3


@ALL
def test_inside_out(make: Callable[[], BaseRetriever], chat: ChatRefrag) -> None:
    """A ``RefragRetriever`` may also be one of the retrievers that another one combines."""
    inner = RefragRetriever(retriever=make())
    outer = EnsembleRetriever(retrievers=[inner], weights=[1.0])
    report = chain(outer, chat).invoke(QUESTION).response_metadata["refrag"]
    assert report["cache_hits"] + report["cache_misses"] == 3
