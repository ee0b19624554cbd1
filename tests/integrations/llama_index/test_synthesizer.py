"""RefragSynthesizer and RefragQueryEngine: one prompt, and a report with the answer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.synthesis import GetResponseStartEvent
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index.llms.refrag import RefragLLM
from llama_index.response_synthesizers.refrag import RefragQueryEngine, RefragSynthesizer
from llama_index.response_synthesizers.refrag.query_engine import default_llm
from refrag_components.exceptions import ContextWindowError
from refrag_components.stores.memory import MemoryStore
from tests.integrations.llama_index.conftest import HARBOUR, QUESTION, ListRetriever
from tests.integrations.llama_index.test_engines import PromptKeeper


def test_report(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    response = RefragQueryEngine.from_args(list_retriever, llm).query(QUESTION)
    assert response.metadata is not None
    refrag = response.metadata["refrag"]
    assert 0 < refrag["context_positions"] < refrag["context_tokens"]
    assert refrag["cache_misses"] == 3
    ids = [each.node.node_id for each in response.source_nodes]
    assert list(response.metadata) == [*ids, "refrag"]


async def test_reports_of_streams_come_with_their_end(
    list_retriever: ListRetriever, llm: RefragLLM
) -> None:
    engine = RefragQueryEngine.from_args(list_retriever, llm, streaming=True)
    response = engine.query(QUESTION)
    assert isinstance(response, StreamingResponse)
    assert response.metadata is not None
    assert response.metadata["refrag"] == {}
    text = str(response)
    assert response.metadata["refrag"]["rate"] > 1
    aresponse = await engine.aquery(QUESTION)
    assert isinstance(aresponse, AsyncStreamingResponse)
    assert "".join([token async for token in aresponse.async_response_gen()]) == text
    assert aresponse.metadata is not None
    assert aresponse.metadata["refrag"]["rate"] > 1


def test_in_an_ordinary_query_engine(index: VectorStoreIndex, llm: RefragLLM) -> None:
    engine = index.as_query_engine(response_synthesizer=RefragSynthesizer(llm), llm=llm)
    response = engine.query(QUESTION)
    assert response.metadata is not None
    assert response.metadata["refrag"]["rate"] > 1


def test_llm_of_the_settings(llm: RefragLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "_llm", llm)
    node = NodeWithScore(node=TextNode(text=HARBOUR))
    response = RefragSynthesizer().synthesize(QUESTION, [node])
    assert response.metadata is not None
    assert response.metadata["refrag"]["rate"] > 1


def test_the_query_engine_takes_the_llm_of_the_settings_too(
    list_retriever: ListRetriever, llm: RefragLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", llm)
    response = RefragQueryEngine.from_args(list_retriever).query(QUESTION)
    assert response.metadata is not None
    assert response.metadata["refrag"]["rate"] > 1
    for other in (PromptKeeper(), None):  # which would compress nothing
        monkeypatch.setattr(Settings, "_llm", other)
        bundled = default_llm()
        assert isinstance(bundled, RefragLLM)
        assert bundled.model == "refrag-smollm2-135m"


def test_store_and_postprocessors(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    store = MemoryStore()
    engine = RefragQueryEngine.from_args(
        list_retriever,
        llm,
        store=store,
        node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.85)],
    )
    response = engine.query(QUESTION)
    assert len(response.source_nodes) == len(store) == 2


def test_own_prompt(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    template = PromptTemplate("{context_str}\nQ: {query_str}\nA:")
    usual, short = (
        RefragQueryEngine.from_args(list_retriever, llm, text_qa_template=each).query(QUESTION)
        for each in (None, template)
    )
    assert usual.metadata is not None
    assert short.metadata is not None
    before, after = usual.metadata["refrag"], short.metadata["refrag"]
    assert before["context_tokens"] == after["context_tokens"]
    assert before["positions"] > after["positions"]


def test_system_prompt(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    positions = []
    for system in (None, "You are a harbour master."):
        llm.system_prompt = system
        response = RefragQueryEngine.from_args(list_retriever, llm).query(QUESTION)
        assert response.metadata is not None
        positions.append(response.metadata["refrag"]["positions"])
    assert positions[0] < positions[1]


async def test_another_llm_reads_the_text(list_retriever: ListRetriever) -> None:
    llm = PromptKeeper()
    engine = RefragQueryEngine.from_args(list_retriever, llm)
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert str(response) == "In 1907."
        assert response.metadata is not None
        assert "refrag" not in response.metadata
    streaming = RefragQueryEngine.from_args(list_retriever, llm, streaming=True)
    assert str(streaming.query(QUESTION)) == "In 1907."
    assert [HARBOUR in prompt for prompt in llm.prompts] == [True] * 3
    assert len(set(llm.prompts)) == 1


def test_too_much_for_the_window(llm: RefragLLM) -> None:
    nodes = [NodeWithScore(node=TextNode(text=f"{i} {HARBOUR}" * 20)) for i in range(70)]
    compressing = llm.model_copy(update={"rest": "compress"})
    with pytest.raises(ContextWindowError, match="retrieve fewer passages"):
        RefragSynthesizer(compressing).synthesize(QUESTION, nodes)
    assert RefragSynthesizer(llm).synthesize(QUESTION, nodes)  # dropping the rest, anything fits


def test_takes_what_the_base_takes(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    with pytest.warns(UserWarning, match="makes one prompt and ignores response_mode, use_async"):
        RefragQueryEngine.from_args(
            list_retriever, llm, response_mode=ResponseMode.REFINE, use_async=True, verbose=False
        )
    ours = inspect.signature(RefragQueryEngine.from_args).parameters
    theirs = inspect.signature(RetrieverQueryEngine.from_args).parameters
    assert list(ours)[:5] == list(theirs)[:5]
    synthesizer = RefragSynthesizer(llm, streaming=True)
    engine = RefragQueryEngine.from_args(list_retriever, response_synthesizer=synthesizer)
    assert isinstance(engine.query(QUESTION), StreamingResponse)


async def test_instrumentation_is_told(list_retriever: ListRetriever, llm: RefragLLM) -> None:
    engine = RefragQueryEngine.from_args(list_retriever, llm)
    for ask in (engine.query, engine.aquery):
        with events() as seen:
            if inspect.isawaitable(response := ask(QUESTION)):
                await response
        names = [event.class_name() for event in seen]
        expected = ["SynthesizeStartEvent", "GetResponseStartEvent", "LLMChatStartEvent"]
        assert [name for name in names if name in expected] == expected
        assert "GetResponseEndEvent" in names
        (start,) = [event for event in seen if isinstance(event, GetResponseStartEvent)]
        assert start.query_str == QUESTION
        assert HARBOUR in start.text_chunks[0]


@contextmanager
def events() -> Iterator[list[BaseEvent]]:
    class Keeper(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            seen.append(event)

    seen: list[BaseEvent] = []
    dispatcher, keeper = get_dispatcher(), Keeper()
    dispatcher.add_event_handler(keeper)
    yield seen
    dispatcher.event_handlers = [each for each in dispatcher.event_handlers if each is not keeper]
