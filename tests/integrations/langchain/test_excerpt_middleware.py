"""An agent of any chat model reads excerpts of what tools and searches return."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import PrivateAttr

import langchain_refrag
from langchain_refrag import RefragDocumentCompressor, RefragExcerptMiddleware
from refrag_components.stores.memory import MemoryStore
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever

QUESTION = "When was the harbour dug?"
LONG = " ".join([RAIN, HARBOUR, PRICES] * 8)


class Model(GenericFakeChatModel):
    """Says what it is told to, and keeps what it has read."""

    _read: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self._read.append(messages)
        return super()._generate(messages, *args, **kwargs)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def calls(name: str, number: str = "1") -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": number}])


@tool
def archive() -> str:
    """Searches the archive."""
    return LONG


@pytest.fixture
def compressor(tiny_folder: Path) -> RefragDocumentCompressor:
    return RefragDocumentCompressor(model=str(tiny_folder), store=MemoryStore())


def read_of(compressor: Any, *messages: BaseMessage, **options: Any) -> list[BaseMessage]:
    """What a model reads of a conversation."""
    model = Model(messages=iter([AIMessage("Well.")]))
    middleware = RefragExcerptMiddleware(compressor, **options)
    create_agent(model, middleware=[middleware]).invoke({"messages": [*messages]})
    return model._read[0]


async def test_results_of_tools_are_cut_and_the_state_keeps_them(
    compressor: RefragDocumentCompressor,
) -> None:
    for run in ("invoke", "ainvoke"):
        model = Model(messages=iter([calls("archive"), AIMessage("In 1907.")]))
        agent = create_agent(model, [archive], middleware=[RefragExcerptMiddleware(compressor)])
        found = getattr(agent, run)({"messages": [HumanMessage(QUESTION)]})
        state = await found if run == "ainvoke" else found
        assert state["messages"][2].text == LONG
        shown = model._read[1][-1]
        assert isinstance(shown, ToolMessage)
        assert shown.tool_call_id == "1"
        assert 0 < len(shown.text) < len(LONG) / 2
        assert all(piece in LONG for piece in shown.text.split(" […] "))


def test_a_result_is_cut_for_the_question_that_it_was_fetched_for(
    compressor: RefragDocumentCompressor,
) -> None:
    """So the beginning of the conversation does not change from call to call."""
    turn = [HumanMessage(QUESTION), calls("archive"), ToolMessage(LONG, tool_call_id="1")]
    before = read_of(compressor, *turn)
    after = read_of(compressor, *turn, AIMessage("In 1907."), HumanMessage("And prices?"))
    assert after[: len(before)] == before


@pytest.mark.parametrize(
    "result",
    [
        ToolMessage(LONG[:900], tool_call_id="1"),
        ToolMessage(LONG, tool_call_id="1", status="error"),
        ToolMessage(json.dumps([{"text": LONG}]), tool_call_id="1"),
        ToolMessage(
            [{"type": "image", "url": "a"}, {"type": "text", "text": LONG}], tool_call_id="1"
        ),
    ],
)
def test_what_a_cut_would_harm_is_left_as_it_is(
    compressor: RefragDocumentCompressor, result: ToolMessage
) -> None:
    read = read_of(compressor, HumanMessage(QUESTION), calls("archive"), result)
    assert read[-1].content == result.content


def test_passages_that_a_retriever_shows_are_cut_where_they_stand(
    compressor: RefragDocumentCompressor,
) -> None:
    compressor.budget = 30
    texts = [f"{PRICES} {RAIN} {PRICES}", f"{HARBOUR} {RAIN} {RAIN}"]
    result = ToolMessage(
        f"Result 1: {texts[0]}\nResult 2: {texts[1]}\nEnd of results.",
        tool_call_id="1",
        artifact=[Document(page_content=text) for text in texts],
    )
    read = read_of(compressor, HumanMessage(QUESTION), calls("a"), result, shortest=100)[-1].text
    first, second = read.removesuffix("\nEnd of results.").split("\nResult 2: ")
    for shown, whole in ((first.removeprefix("Result 1: "), texts[0]), (second, texts[1])):
        assert all(piece in whole for piece in shown.split(" […] ")) or shown == "[…]"
    assert len(read) < len(result.text) * 0.7


async def test_searches_are_put_before_the_question_in_this_call_only(
    compressor: RefragDocumentCompressor, list_retriever: ListRetriever
) -> None:
    compressor.budget = 1.0
    for run in ("invoke", "ainvoke"):
        model = Model(messages=iter([AIMessage("In 1907.")]))
        middleware = RefragExcerptMiddleware(compressor, retriever=list_retriever)
        agent = create_agent(model, middleware=[middleware])
        found = getattr(agent, run)({"messages": [HumanMessage(QUESTION)]})
        state = await found if run == "ainvoke" else found
        assert model._read[0][-1].text == f"{HARBOUR}\n\n{RAIN}\n\n{PRICES}\n\n{QUESTION}"
        assert state["messages"][0].content == QUESTION


def test_a_compressor_that_fails_leaves_whole_results(tiny_folder: Path) -> None:
    lost = RefragDocumentCompressor(model=str(tiny_folder / "nowhere"))
    read = read_of(lost, HumanMessage(QUESTION), calls("a"), ToolMessage(LONG, tool_call_id="1"))
    assert read[-1].text == LONG


@pytest.mark.parametrize("messages", [[AIMessage("Hello.")], [HumanMessage(" ")]])
def test_without_a_question_nothing_is_cut(
    compressor: RefragDocumentCompressor, messages: list[BaseMessage]
) -> None:
    result = [calls("archive"), ToolMessage(LONG, tool_call_id="1")]
    assert read_of(compressor, *messages, *result)[-1].text == LONG


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
    monkeypatch.delitem(sys.modules, "langchain_refrag.excerpt_middleware")
    with pytest.raises(ImportError, match=r"refrag-components\[langchain-agents\]"):
        _ = langchain_refrag.RefragExcerptMiddleware
