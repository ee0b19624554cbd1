"""create_refrag_documents_chain and format_refrag_documents."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from langchain_refrag import (
    ChatRefrag,
    RefragLLM,
    RefragRetriever,
    create_refrag_documents_chain,
    format_refrag_documents,
)
from refrag_components.stores import MemoryStore
from tests.integrations.langchain.conftest import HARBOUR, RAIN, ListRetriever

PROMPT = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}")
QUESTION = "When was the harbour dug?"
SHOW = RunnableLambda(lambda prompt: prompt.to_string())


def inputs(documents: list[Document]) -> dict[str, object]:
    return {"context": documents, "question": QUESTION}


class TestChain:
    def test_takes_the_place_of_the_stuff_chain(self, documents: list[Document]) -> None:
        ours = inspect.signature(create_refrag_documents_chain).parameters.values()
        theirs = inspect.signature(create_stuff_documents_chain).parameters.values()
        assert [(p.name, p.kind, p.default) for p in ours] == [
            (p.name, p.kind, p.default) for p in theirs
        ]
        settings = {
            "document_prompt": PromptTemplate.from_template("<{page_content}>"),
            "document_separator": "\n--\n",
        }
        for arguments in ({}, settings):
            prompts = [
                create(SHOW, PROMPT, **arguments).invoke(inputs(documents))  # type: ignore[arg-type]
                for create in (create_refrag_documents_chain, create_stuff_documents_chain)
            ]
            assert prompts[0] == prompts[1]

    @pytest.mark.parametrize("layout", ["{page_content}", "Source {page}: {page_content}!"])
    def test_documents_of_any_origin_are_compressed(self, chat: ChatRefrag, layout: str) -> None:
        documents = [Document(page_content=t, metadata={"page": 1}) for t in (HARBOUR, RAIN)]
        chain = create_refrag_documents_chain(
            chat,
            PROMPT,
            output_parser=RunnablePassthrough(),  # type: ignore[arg-type]
            document_prompt=PromptTemplate.from_template(layout),
        )
        for _ in range(2):
            report = chain.invoke(inputs(documents)).response_metadata["refrag"]
            assert 0 < report["context_positions"] < report["context_tokens"]
        assert report["cache_hits"] == 2

    def test_store_of_the_retriever_is_kept(
        self, chat: ChatRefrag, list_retriever: ListRetriever
    ) -> None:
        store = MemoryStore()
        retriever = RefragRetriever(retriever=list_retriever, store=store)
        prompt = ChatPromptTemplate.from_template("{context}\n\n{input}")
        chain = create_retrieval_chain(retriever, create_refrag_documents_chain(chat, prompt))
        result = chain.invoke({"input": QUESTION})
        assert isinstance(result["answer"], str)
        assert len(store) == 3

    async def test_async_and_stream(self, chat: ChatRefrag, documents: list[Document]) -> None:
        chain = create_refrag_documents_chain(chat, PROMPT)
        expected = chain.invoke(inputs(documents))
        assert await chain.ainvoke(inputs(documents)) == expected
        assert "".join(chain.stream(inputs(documents))) == expected

    def test_other_models_and_variables(self, documents: list[Document]) -> None:
        prompt = ChatPromptTemplate.from_template("{docs}")
        model = FakeListChatModel(responses=["In 1907."])
        chain = create_refrag_documents_chain(model, prompt, document_variable_name="docs")
        assert chain.invoke({"docs": documents}) == "In 1907."

    def test_prompt_without_the_variable(self, chat: ChatRefrag) -> None:
        with pytest.raises(ValueError, match="no variable 'docs'"):
            create_refrag_documents_chain(chat, PROMPT, document_variable_name="docs")


class TestEnvelopes:
    @pytest.fixture
    def retriever(self, list_retriever: ListRetriever, tiny_folder: Path) -> RefragRetriever:
        return RefragRetriever(
            retriever=list_retriever, model=str(tiny_folder), store=MemoryStore()
        )

    def test_are_recognised_in_another_run_or_process(
        self,
        retriever: RefragRetriever,
        tiny_folder: Path,
        chat: ChatRefrag,
    ) -> None:
        context = (retriever | format_refrag_documents).invoke("x")  # a run that ends here
        prompt = f"{context}\n\n{QUESTION}"
        generation = RefragLLM(model=str(tiny_folder), max_tokens=2).generate([prompt])
        info = generation.generations[0][0].generation_info
        assert info is not None
        for report in (info["refrag"], chat.invoke(prompt).response_metadata["refrag"]):
            assert 0 < report["context_positions"] < report["context_tokens"]
            assert report["warnings"] == []

    def test_hold_the_text(self, retriever: RefragRetriever) -> None:
        documents = [*retriever.invoke("x")[:1], Document(page_content=RAIN)]
        text = format_refrag_documents(documents, separator="\n--\n")
        key = documents[0].metadata["refrag_key"]
        assert text == f"[[refrag:{key}]]{HARBOUR}[[/refrag]]\n--\n{RAIN}"
