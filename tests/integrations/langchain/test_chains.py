"""Ordinary chains, unchanged except for the retriever and the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from langchain_refrag import ChatRefrag, RefragRetriever
from tests.integrations.langchain.conftest import HARBOUR, ListRetriever

Chain = Callable[[BaseRetriever, BaseChatModel], Runnable[Any, Any]]
QUESTION = "When was the harbour dug?"


def lcel(retriever: BaseRetriever, model: BaseChatModel) -> Runnable[Any, Any]:
    """A chain in LangChain's expression language; the prompt is one human message."""

    def format_docs(documents: list[Document]) -> str:
        return "\n\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template(
        "Answer from the context only.\n\nContext: {context}\n\nQuestion: {question}"
    )
    inputs = {"context": retriever | format_docs, "question": RunnablePassthrough()}
    return inputs | prompt | model | StrOutputParser()


def stuff(retriever: BaseRetriever, model: BaseChatModel) -> Runnable[Any, Any]:
    """``create_stuff_documents_chain`` alone."""
    inputs = {"context": retriever, "input": RunnablePassthrough()}
    return inputs | create_stuff_documents_chain(model, _stuff_prompt())


def retrieval(retriever: BaseRetriever, model: BaseChatModel) -> Runnable[Any, Any]:
    """``create_retrieval_chain`` around it."""
    answering = create_stuff_documents_chain(model, _stuff_prompt())
    chain = create_retrieval_chain(retriever, answering)
    return RunnableLambda(lambda question: {"input": question}) | chain | (lambda x: x["answer"])


def _stuff_prompt() -> ChatPromptTemplate:
    return ChatPromptTemplate.from_messages(
        [("system", "Answer from the context only.\n\n{context}"), ("human", "{input}")]
    )


CHAINS = pytest.mark.parametrize("make", [lcel, stuff, retrieval])


class Watcher(BaseCallbackHandler):
    """Keeps what models received and answered."""

    def __init__(self) -> None:
        self.prompts: list[list[tuple[str, Any]]] = []
        self.reports: list[dict[str, Any]] = []

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **_: Any
    ) -> None:
        self.prompts += [[(m.type, m.content) for m in prompt] for prompt in messages]

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        generation = response.generations[0][0]
        assert isinstance(generation, ChatGeneration)
        self.reports.append(generation.message.response_metadata.get("refrag", {}))


@CHAINS
def test_compresses_and_caches(
    make: Chain, list_retriever: ListRetriever, chat: ChatRefrag
) -> None:
    chain = make(RefragRetriever(retriever=list_retriever), chat)
    watcher = Watcher()
    first = chain.invoke(QUESTION, {"callbacks": [watcher]})
    assert chain.invoke(QUESTION, {"callbacks": [watcher]}) == first
    cold, warm = watcher.reports
    for refrag in (cold, warm):
        assert 0 < refrag["context_positions"] < refrag["context_tokens"]
        assert refrag["warnings"] == []
    assert warm["cache_hits"] == 3
    assert warm["cache_misses"] == 0


@CHAINS
def test_streams_and_runs_async(
    make: Chain, list_retriever: ListRetriever, chat: ChatRefrag
) -> None:
    chain = make(RefragRetriever(retriever=list_retriever), chat)
    assert "".join(chain.stream(QUESTION)) == chain.invoke(QUESTION)


@CHAINS
async def test_async_is_sync(make: Chain, list_retriever: ListRetriever, chat: ChatRefrag) -> None:
    chain = make(RefragRetriever(retriever=list_retriever), chat)
    expected = chain.invoke(QUESTION)
    assert await chain.ainvoke(QUESTION) == expected
    assert "".join([piece async for piece in chain.astream(QUESTION)]) == expected


@CHAINS
def test_without_the_retriever_it_still_answers(
    make: Chain, list_retriever: ListRetriever, chat: ChatRefrag
) -> None:
    watcher = Watcher()
    make(list_retriever, chat).invoke(QUESTION, {"callbacks": [watcher]})
    (refrag,) = watcher.reports
    assert refrag["context_tokens"] == 0


@CHAINS
def test_another_model_reads_the_same_text(make: Chain, list_retriever: ListRetriever) -> None:
    prompts = []
    for retriever in (list_retriever, RefragRetriever(retriever=list_retriever)):
        watcher = Watcher()
        model = FakeListChatModel(responses=["In 1907."])
        answer = make(retriever, model).invoke(QUESTION, {"callbacks": [watcher]})
        assert answer == "In 1907."
        prompts += watcher.prompts
    assert prompts[0] == prompts[1]
    assert HARBOUR in str(prompts[1])
    assert "refrag" not in str(prompts[1])


@CHAINS
def test_batch(make: Chain, list_retriever: ListRetriever, chat: ChatRefrag) -> None:
    chain = make(RefragRetriever(retriever=list_retriever), chat)
    questions = [QUESTION, "How many men?", "Why?"]
    assert chain.batch(questions) == [chain.invoke(question) for question in questions]


async def test_events_of_a_chain(list_retriever: ListRetriever, chat: ChatRefrag) -> None:
    chain = lcel(RefragRetriever(retriever=list_retriever), chat)
    events = [event async for event in chain.astream_events(QUESTION, version="v2")]
    pieces = [
        event["data"]["chunk"].content
        for event in events
        if event["event"] == "on_chat_model_stream"
    ]
    assert "".join(pieces) == chain.invoke(QUESTION)
    kinds = {event["event"] for event in events}
    assert {"on_retriever_end", "on_chat_model_start", "on_chat_model_end"} <= kinds
