"""Nobody's prompt is laid out differently because of what anybody else has done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langgraph.graph import END, START, StateGraph

from langchain_refrag import ChatRefrag, RefragLLM, RefragMiddleware, RefragRetriever
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.retrieved import retrieved_by_hand
from refrag_components.stores import MemoryStore
from tests.engines.shown import ShowsLayout
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever
from tests.integrations.visits import Visit, visits

FAQ = "Which plug do I need for the charger model ZX-20 in Malta?"
PASSAGES = (HARBOUR, RAIN, PRICES, FAQ)
QUESTIONS = ("When was the harbour dug?", FAQ, "Context:", f"Proofread this: {HARBOUR}", "lamp")
TEMPLATE = "Answer from the context.\n\nContext: {context}\n\nQuestion: {question}"
WAYS = (
    *("chain", "history chain", "parallel", "function", "graph", "agent", "text"),
    *("by hand", "pasted", "documents"),
)


VISITS = visits(WAYS, len(QUESTIONS))


def format_docs(documents: Sequence[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


class ByHand:
    """Calls a retriever and a model, and nothing around both."""

    def __init__(self, retriever: BaseRetriever, chat: ChatRefrag) -> None:
        self.retriever = retriever
        self.chat = chat

    def invoke(self, question: str) -> str:
        documents = self.retriever.invoke(question)
        return str(self.chat.invoke(self.prompt(documents, question)).content)

    async def ainvoke(self, question: str) -> str:
        documents = await self.retriever.ainvoke(question)
        return str((await self.chat.ainvoke(self.prompt(documents, question))).content)

    def stream(self, question: str) -> Iterator[str]:
        documents = self.retriever.invoke(question)
        for chunk in self.chat.stream(self.prompt(documents, question)):
            yield str(chunk.content)

    def prompt(self, documents: list[Document], question: str) -> PromptValue:
        prompt = ChatPromptTemplate.from_template(TEMPLATE)
        return prompt.invoke({"context": format_docs(documents), "question": question})


class Office:
    """One process that serves everybody with the same models."""

    def __init__(self, folder: str) -> None:
        engine = ShowsLayout(load_checkpoint(folder).model)
        self.chat = ChatRefrag(model=folder, engine=engine)
        self.llm = RefragLLM(model=folder, engine=engine)

    def job(self, visit: Visit) -> tuple[Any, Any]:
        """What the user runs, with its input; its output is the layout."""
        documents = [Document(PASSAGES[i]) for i in visit.found]
        retriever = RefragRetriever(retriever=ListRetriever(documents=documents))
        question, said = QUESTIONS[visit.question], PASSAGES[visit.said]
        read = RunnableLambda(lambda message: message.content)
        pasted = f"{said}\n\n{format_docs(documents)}\n\nWhat does it say?"
        history: list[BaseMessage] = [HumanMessage(said), AIMessage(f"So: {said}")]
        match visit.way:
            case "chain":
                return self.chain(retriever, ChatPromptTemplate.from_template(TEMPLATE)), question
            case "history chain":
                prompt = ChatPromptTemplate.from_messages(
                    [("system", "Read {context}"), *history, ("human", "{question}")]
                )
                return self.chain(retriever, prompt), question
            case "text":
                inputs = {"context": retriever | format_docs, "question": RunnablePassthrough()}
                return inputs | PromptTemplate.from_template(TEMPLATE) | self.llm, question
            case "parallel":
                prompt = ChatPromptTemplate.from_template(TEMPLATE)
                both = RunnableParallel(
                    a=self.chain(retriever, prompt), b=self.chain(retriever, prompt)
                )
                return both | RunnableLambda(lambda read: read["a"] + read["b"]), question
            case "graph":
                return self.graph(retriever), {"question": question}
            case "agent":
                middleware = RefragMiddleware(retriever, history=True)
                agent = create_agent(self.chat, middleware=[middleware])
                last = RunnableLambda(lambda state: state["messages"][-1].content)
                return agent | last, {"messages": [*history, HumanMessage(question)]}
            case "pasted":
                return self.chat | read, pasted
            case "documents":
                return self.chat.bind(documents=documents) | read, pasted
        by_hand = ByHand(retriever, self.chat)
        if visit.way == "function":
            return RunnableLambda(by_hand.invoke, by_hand.ainvoke), question
        return by_hand, QUESTIONS[0]  # which nobody else pastes

    def chain(self, retriever: BaseRetriever, prompt: ChatPromptTemplate) -> Runnable[Any, Any]:
        inputs = {"context": retriever | format_docs, "question": RunnablePassthrough()}
        return inputs | prompt | self.chat | (lambda message: message.content)

    def graph(self, retriever: BaseRetriever) -> Runnable[Any, Any]:
        def retrieve(state: dict[str, Any]) -> dict[str, Any]:
            return {**state, "context": format_docs(retriever.invoke(state["question"]))}

        def answer(state: dict[str, Any]) -> dict[str, Any]:
            messages = [SystemMessage(state["context"]), HumanMessage(state["question"])]
            return {**state, "answer": self.chat.invoke(messages).content}

        graph = StateGraph(dict)
        graph.add_node("retrieve", retrieve)
        graph.add_node("answer", answer)
        graph.add_edge(START, "retrieve")
        graph.add_edge("retrieve", "answer")
        graph.add_edge("answer", END)
        return graph.compile() | RunnableLambda(lambda state: state["answer"])

    def alone(self, visit: Visit) -> str:
        """What the user gets in a thread that has done nothing else."""
        job, given = self.job(visit)
        return str(Context().run(job.invoke, given))


@pytest.fixture(scope="module")
def office(roomy_folder: Path) -> Office:
    return Office(str(roomy_folder / "tiny"))


@settings(max_examples=25)
@given(st.lists(VISITS, min_size=2, max_size=8))
def test_one_after_the_other_in_one_thread(office: Office, visits: list[Visit]) -> None:
    expected = [office.alone(visit) for visit in visits]
    for visit, layout in zip(visits, expected, strict=True):
        job, given = office.job(visit)
        assert str(job.invoke(given)) == layout
        if visit.way not in ("agent", "graph"):  # those stream states
            assert "".join(map(str, job.stream(given))) == layout


@settings(max_examples=15)
@given(st.lists(VISITS, min_size=2, max_size=12))
def test_in_threads_that_serve_one_after_the_other(office: Office, visits: list[Visit]) -> None:
    expected = [office.alone(visit) for visit in visits]

    def serve(visit: Visit) -> str:
        job, given = office.job(visit)
        return str(job.invoke(given))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(serve, visits)) == expected


@settings(max_examples=15)
@given(st.lists(VISITS, min_size=2, max_size=12))
def test_in_tasks(office: Office, visits: list[Visit]) -> None:
    async def serve(visit: Visit) -> str:
        job, given = office.job(visit)
        return str(await job.ainvoke(given))

    async def serve_all() -> list[str]:
        return await asyncio.gather(*map(serve, visits))

    assert asyncio.run(serve_all()) == [office.alone(visit) for visit in visits]


@settings(max_examples=15)
@given(st.lists(VISITS, min_size=2, max_size=6))
def test_in_a_batch(office: Office, visits: list[Visit]) -> None:
    """One chain for several users at once, each with passages of their own."""
    found = {question: visit.found for visit, question in zip(visits, "abcdef", strict=False)}
    questions = [f"{name}: {QUESTIONS[0]}" for name in found]

    def search(question: str) -> list[Document]:
        return [Document(PASSAGES[i]) for i in found[question[0]]]

    class Search(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            return search(query)

    retriever = RefragRetriever(retriever=Search())
    pasted = RunnableLambda(lambda question: f"{HARBOUR}\n{RAIN}\n{PRICES}\n{FAQ}\n{question}")
    inputs = {"context": retriever | format_docs, "pasted": pasted}
    template = "{pasted}\n\n{context}"
    text = inputs | PromptTemplate.from_template(template) | office.llm
    chat = inputs | ChatPromptTemplate.from_template(template) | office.chat
    for chain in (text, chat | (lambda message: message.content)):
        alone = [Context().run(chain.invoke, question) for question in questions]
        assert chain.batch(questions) == alone
        assert asyncio.run(chain.abatch(questions)) == alone


@pytest.mark.parametrize("way", [way for way in WAYS if way != "pasted"])
def test_every_way_compresses(office: Office, way: str) -> None:
    layout = office.alone(Visit(way, (1, 2), 0, 0))
    assert layout.count("><") > 8


def test_a_question_that_is_a_passage_is_read(office: Office) -> None:
    for way in ("chain", "history chain", "text", "graph", "agent"):
        layout = office.alone(Visit(way, (3, 0), 1, 1))
        assert FAQ in layout.replace("<|im_end|>", "")
        assert layout.count("><") > 5


def test_history_of_one_agent_is_nothing_to_another_user(office: Office) -> None:
    agent = create_agent(office.chat, middleware=[RefragMiddleware(history=True)])
    said = "Reply with exactly this code and nothing else: QX-4471-B"
    before = office.chat.invoke(said).content
    turns = [HumanMessage(said), AIMessage("QX-4471-B"), HumanMessage("Thank you!")]
    compressed = agent.invoke({"messages": turns})["messages"][-1].content
    assert said not in compressed
    assert office.chat.invoke(said).content == before
    again = [HumanMessage(said), AIMessage("Pardon?"), HumanMessage(said)]
    read = agent.invoke({"messages": again})["messages"][-1].content
    assert read.count(said) == 1  # the first time it is history, the second time it asks
    assert f"{said}<|im_end|>\n<|im_start|>assistant" in read


def test_each_tenants_store_holds_what_that_tenant_has_retrieved(office: Office) -> None:
    stores = [MemoryStore(), MemoryStore()]
    prompt = ChatPromptTemplate.from_template(TEMPLATE)
    for own in (0, 1, 1, 0):
        texts = ListRetriever(documents=[Document(HARBOUR), Document((RAIN, PRICES)[own])])
        chain = office.chain(RefragRetriever(retriever=texts, store=stores[own]), prompt)
        chain.invoke(QUESTIONS[0])
    assert [len(store) for store in stores] == [2, 2]
    assert set(stores[0].yield_keys()) != set(stores[1].yield_keys())


def test_no_report_tells_what_another_tenant_has_retrieved(office: Office) -> None:
    texts = [f"{text} It is not known elsewhere." for text in (HARBOUR, RAIN)]
    retriever = ListRetriever(documents=[Document(text) for text in texts])
    reports = []
    for store in (MemoryStore(), MemoryStore()):
        found = RefragRetriever(retriever=retriever, store=store)
        chain = found | format_docs | (lambda context: f"{context}\n\nWhen?") | office.chat
        report = chain.invoke(QUESTIONS[0]).response_metadata["refrag"]
        reports.append({**report, "time_to_first_token": None})
    assert reports[0] == reports[1]
    assert reports[1]["cache_misses"] == 2


def test_memory_stays_flat(office: Office) -> None:
    rng = random.Random(0)
    for _ in range(100):
        texts = [f"{HARBOUR} {rng.random()}" for _ in range(3)]
        retriever = ListRetriever(documents=[Document(text) for text in texts])
        prompt = ChatPromptTemplate.from_template(TEMPLATE)
        office.chain(RefragRetriever(retriever=retriever), prompt).invoke(QUESTIONS[0])
    assert len(retrieved_by_hand()) <= 32


FORMATS: dict[str, Callable[[list[Document]], str]] = {
    "one line": lambda documents: " ".join(format_docs(documents).split()),
    "indented": lambda documents: "\n".join(f"    {document}" for document in documents),
    "JSON": lambda documents: str([document.model_dump_json() for document in documents]),
    "as they print": str,
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_formatters_that_change_white_space_or_escape(
    office: Office, form: Callable[[list[Document]], str]
) -> None:
    texts = [f'{HARBOUR}\n\n"{RAIN}"', f"{PRICES}\n- one\n- two"]
    retriever = ListRetriever(documents=[Document(text) for text in texts])
    inputs = {
        "context": RefragRetriever(retriever=retriever) | form,
        "question": RunnablePassthrough(),
    }
    for mustache in (False, True):
        template = TEMPLATE.replace("{", "{{").replace("}", "}}") if mustache else TEMPLATE
        prompt = ChatPromptTemplate.from_template(
            template, template_format="mustache" if mustache else "f-string"
        )
        report = (inputs | prompt | office.chat).invoke(QUESTIONS[0]).response_metadata["refrag"]
        assert report["cache_hits"] + report["cache_misses"] == 2
        assert report["warnings"] == []


def test_a_formatter_that_cuts_is_warned_of(office: Office, documents: list[Document]) -> None:
    retriever = RefragRetriever(retriever=ListRetriever(documents=documents))
    inputs = {
        "context": retriever | (lambda found: "\n".join(d.page_content[:50] for d in found)),
        "question": RunnablePassthrough(),
    }
    chain = inputs | ChatPromptTemplate.from_template(TEMPLATE) | office.chat
    report = chain.invoke(QUESTIONS[0]).response_metadata["refrag"]
    assert report["chunks"] == 0
    assert "cut off" in report["warnings"][0]
