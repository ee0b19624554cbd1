"""Nobody's prompt is laid out differently because of what anybody else has done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import RetrieverTool

from llama_index.llms.refrag import RefragLLM, collect_reports, runs
from llama_index.postprocessor.refrag import RefragNodePostprocessor
from llama_index.response_synthesizers.refrag import RefragQueryEngine
from llama_index.retrievers.refrag import RefragRetriever
from refrag_components.engines.base import EngineDelta
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.retrieved import retrieved_by_hand
from refrag_components.stores import MemoryStore
from tests.engines.shown import ShowsLayout
from tests.integrations.llama_index.conftest import HARBOUR, PRICES, QUESTION, RAIN, ListRetriever
from tests.integrations.visits import Visit, visits

FAQ = "Which plug do I need for the charger model ZX-20 in Malta?"
PASSAGES = (HARBOUR, RAIN, PRICES, FAQ)
QUESTIONS = (QUESTION, FAQ, "Context information is below.", f"Proofread this: {HARBOUR}", "lamp")
MODES = ("compact", "refine", "tree_summarize", "accumulate", "simple_summarize")
WAYS = (*MODES, "refrag engine", "context", "condense", "by hand", "pasted", "documents")


VISITS = visits(WAYS, len(QUESTIONS))


class Office:
    """One process that serves everybody with the same model."""

    def __init__(self, folder: str) -> None:
        model = load_checkpoint(folder).model
        self.llm = RefragLLM(model=folder, engine=ShowsLayout(model))

    def serve(self, visit: Visit) -> str:
        """The layout that the user's question gets."""
        question, pasted, nodes = self.texts(visit)
        retriever = ListRetriever(nodes)
        match visit.way:
            case "pasted":
                return str(self.llm.complete(pasted))
            case "documents":
                return str(self.llm.complete(pasted, documents=nodes))
            case "by hand":
                found = RefragRetriever(retriever).retrieve(QUESTION)
                return str(self.llm.chat([self.prompt(found)]).message.content)
            case "context" | "condense":
                return str(self.chat(visit, retriever).chat(question))
        return str(self.engine(visit.way, retriever).query(question))

    async def aserve(self, visit: Visit) -> str:
        question, pasted, nodes = self.texts(visit)
        retriever = ListRetriever(nodes)
        match visit.way:
            case "pasted":
                return str(await self.llm.acomplete(pasted))
            case "documents":
                return str(await self.llm.acomplete(pasted, documents=nodes))
            case "by hand":
                found = await RefragRetriever(retriever).aretrieve(QUESTION)
                return str((await self.llm.achat([self.prompt(found)])).message.content)
            case "context" | "condense":
                return str(await self.chat(visit, retriever).achat(question))
        return str(await self.engine(visit.way, retriever).aquery(question))

    def alone(self, visit: Visit) -> str:
        """What the user gets in a thread that has done nothing else."""
        return Context().run(self.serve, visit)

    def texts(self, visit: Visit) -> tuple[str, str, list[NodeWithScore]]:
        texts = [PASSAGES[i] for i in visit.found]
        nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in texts]
        pasted = "\n\n".join([PASSAGES[visit.said], *texts, "What does it say?"])
        return QUESTIONS[visit.question], pasted, nodes

    def prompt(self, nodes: list[NodeWithScore]) -> ChatMessage:
        context = "\n\n".join(each.get_content() for each in nodes)
        return ChatMessage(content=f"{context}\n\nQuestion: {QUESTION}")

    def engine(self, way: str, retriever: ListRetriever) -> RetrieverQueryEngine:
        if way == "refrag engine":
            return RefragQueryEngine.from_args(retriever, llm=self.llm)
        return RetrieverQueryEngine.from_args(
            retriever,
            llm=self.llm,
            node_postprocessors=[RefragNodePostprocessor()],
            response_mode=ResponseMode(way),
        )

    def chat(
        self, visit: Visit, retriever: ListRetriever
    ) -> ContextChatEngine | CondensePlusContextChatEngine:
        said = [ChatMessage(content=PASSAGES[visit.said])]
        kind = ContextChatEngine if visit.way == "context" else CondensePlusContextChatEngine
        return kind.from_defaults(
            retriever=retriever,
            llm=self.llm,
            memory=ChatMemoryBuffer.from_defaults(chat_history=said, llm=self.llm),
            node_postprocessors=[RefragNodePostprocessor()],
        )


@pytest.fixture(scope="module")
def office(roomy_folder: Path) -> Office:
    return Office(str(roomy_folder / "tiny"))


class TestProperty:
    @settings(max_examples=30)
    @given(st.lists(VISITS, min_size=2, max_size=8))
    def test_one_after_the_other_in_one_thread(self, office: Office, visits: list[Visit]) -> None:
        expected = [office.alone(visit) for visit in visits]
        assert [office.serve(visit) for visit in visits] == expected

    @settings(max_examples=20)
    @given(st.lists(VISITS, min_size=2, max_size=12))
    def test_in_threads_that_serve_one_after_the_other(
        self, office: Office, visits: list[Visit]
    ) -> None:
        expected = [office.alone(visit) for visit in visits]
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(office.serve, visits)) == expected

    @settings(max_examples=20)
    @given(st.lists(VISITS, min_size=2, max_size=12))
    def test_in_tasks(self, office: Office, visits: list[Visit]) -> None:
        async def serve_all() -> list[str]:
            return await asyncio.gather(*map(office.aserve, visits))

        assert asyncio.run(serve_all()) == [office.alone(visit) for visit in visits]

    @pytest.mark.parametrize("way", [way for way in WAYS if way != "pasted"])
    def test_every_way_compresses(self, office: Office, way: str) -> None:
        layout = office.alone(Visit(way, (1, 2), 0, 0))
        assert layout.count("><") > 8

    @pytest.mark.parametrize("way", ["compact", "refrag engine", "context", "condense"])
    def test_a_question_that_is_a_passage_is_read(self, office: Office, way: str) -> None:
        layout = office.alone(Visit(way, (3, 0), 1, 1))
        assert FAQ in layout
        assert layout.count("><") > 5


class Searching:
    """Searches once, then answers with what it has to read."""

    def __init__(self, shown: ShowsLayout) -> None:
        self.shown = shown

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        read = self.shown.read(layout)
        searched = "Action: search" in read.rpartition("## Current Conversation")[2]
        call = 'Thought: I need a tool.\nAction: search\nAction Input: {"input": "lamp"}\n'
        text = f"Thought: I can answer.\nAnswer: {read}" if searched else call
        yield EngineDelta(text, (0,), "stop")


def agent(office: Office, *passages: str) -> ReActAgent:
    nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in passages]
    search = RetrieverTool.from_defaults(
        RefragRetriever(ListRetriever(nodes)), name="search", description="Searches."
    )
    engine: Any = Searching(office.llm.engine)  # type: ignore[arg-type]
    return ReActAgent(tools=[search], llm=office.llm.model_copy(update={"engine": engine}))


async def test_agents_that_run_at_the_same_time(office: Office) -> None:
    async def ask(question: str, *passages: str) -> str:
        return str(await agent(office, *passages).run(question))

    alone = await ask(f"Is this right? {HARBOUR} And does it have a lamp?", RAIN, PRICES)
    assert HARBOUR in alone
    assert alone.count("><") > 8
    first = agent(office, HARBOUR, RAIN).run("When was it dug?")
    second = agent(office, RAIN, PRICES).run(f"Is this right? {HARBOUR} And does it have a lamp?")
    third = asyncio.create_task(ask("When was it dug?", HARBOUR))
    answers = [str(await first), str(await second), await third]
    assert answers[1] == alone
    assert HARBOUR not in answers[0]
    assert HARBOUR not in answers[2]


class TestQuestionOfThePolicy:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What each call of the LLM compares chunks with."""
        questions: list[str] = []
        ask = RefragLLM._ask

        def watched(llm: RefragLLM, parts: Any, question: str) -> Any:
            questions.append(question)
            return ask(llm, parts, question)

        monkeypatch.setattr(RefragLLM, "_ask", watched)
        return questions

    @pytest.mark.parametrize("way", [*MODES, "refrag engine"])
    def test_nobody_elses_query(self, office: Office, asked: list[str], way: str) -> None:
        for query in (2, 4):  # a sentence of the template, and a word
            office.serve(Visit("compact", (0, 1), query, 0))
        asked.clear()
        assert office.serve(Visit(way, (0, 1), 0, 0))
        assert set(asked) == {QUESTION}

    def test_a_condensed_query(self, office: Office, asked: list[str]) -> None:
        office.serve(Visit("compact", (0, 1), 4, 0))
        said = "Which year was that again, and does it have a lamp?"
        chat = office.chat(Visit("condense", (0, 1), 0, 0), ListRetriever(found(HARBOUR, RAIN)))
        chat.chat(said)
        assert asked[-1] == said


def found(*passages: str) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in passages]


def test_each_tenants_store_holds_what_that_tenant_has_retrieved(office: Office) -> None:
    stores = [MemoryStore(), MemoryStore()]
    for own in (0, 1, 1, 0):
        RetrieverQueryEngine.from_args(
            ListRetriever(found(HARBOUR, (RAIN, PRICES)[own])),
            llm=office.llm,
            node_postprocessors=[RefragNodePostprocessor(store=stores[own])],
        ).query(QUESTION)
    assert [len(store) for store in stores] == [2, 2]
    assert set(stores[0].yield_keys()) != set(stores[1].yield_keys())


def test_requests_end(office: Office) -> None:
    for i in range(100):
        office.serve(Visit("compact", (0, 1), 0, 0))
        with pytest.raises(ValueError, match="no"):
            RetrieverQueryEngine.from_args(Failing([]), llm=office.llm).query(f"{i}")
    handlers = [h for h in get_dispatcher().span_handlers if isinstance(h, runs._Requests)]
    assert [len(handler.open_spans) for handler in handlers] == [0]
    assert len(retrieved_by_hand()) <= 32
    assert runs.retrieved_in_run() is None


class Failing(ListRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        raise ValueError("no")


def test_passages_that_a_template_cuts_are_warned_of(office: Office) -> None:
    class Cut(ListRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            nodes = RefragRetriever(ListRetriever(self.nodes)).retrieve(query_bundle)
            return found(*(each.text[:50] for each in nodes))

    engine = RetrieverQueryEngine.from_args(Cut(found(HARBOUR, RAIN)), llm=office.llm)
    with collect_reports() as reports:
        engine.query(QUESTION)
    assert reports[0]["chunks"] == 0
    assert "cut off" in reports[0]["warnings"][0]
