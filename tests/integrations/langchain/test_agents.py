"""Agents of ``create_agent``: with a retrieval tool as it comes, and with RefragMiddleware."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import create_retriever_tool, tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

import langchain_refrag
from langchain_refrag import ChatRefrag, RefragMiddleware, RefragRetriever
from refrag_components.exceptions import ToolCallingError
from refrag_components.stores import MemoryStore, SQLiteStore
from tests.integrations.langchain.conftest import HARBOUR, RAIN, ListRetriever
from tests.integrations.scripted import ScriptedEngine

QUESTION = "When was the harbour dug?"
THREAD: Any = {"configurable": {"thread_id": "1"}}


def asked(question: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(question)]}


def reports(state: dict[str, Any]) -> list[dict[str, Any]]:
    """What each answer of the model says about its context."""
    return [
        message.response_metadata["refrag"]
        for message in state["messages"]
        if isinstance(message, AIMessage)
    ]


@pytest.fixture
def agent_model(tool_folder: Path, scripted: ScriptedEngine) -> ChatRefrag:
    return ChatRefrag(model=str(tool_folder), device="cpu", max_tokens=100)


class TestPlainAgent:
    def make(self, model: ChatRefrag, retriever: ListRetriever, form: Any, **settings: Any) -> Any:
        search = create_retriever_tool(
            RefragRetriever(retriever=retriever),
            "search",
            "Searches the archive.",
            response_format=form,
        )
        return create_agent(model, [search], **settings)

    @pytest.mark.parametrize("form", ["content", "content_and_artifact"])
    def test_results_of_the_tool_are_compressed(
        self, agent_model: ChatRefrag, list_retriever: ListRetriever, form: str
    ) -> None:
        state = self.make(agent_model, list_retriever, form).invoke(asked(QUESTION))
        kinds = [type(message).__name__ for message in state["messages"]]
        assert kinds == ["HumanMessage", "AIMessage", "ToolMessage", "AIMessage"]
        before, after = reports(state)
        assert before["context_tokens"] == 0
        assert 0 < after["context_positions"] < after["context_tokens"]
        assert after["cache_hits"] + after["cache_misses"] == 3

    def test_conversation_continues_with_new_objects(
        self,
        agent_model: ChatRefrag,
        list_retriever: ListRetriever,
        tmp_path: Path,
    ) -> None:
        saver = InMemorySaver()
        model = agent_model.model_copy(update={"store": SQLiteStore(tmp_path / "chunks")})
        form = "content_and_artifact"
        agent = self.make(model, list_retriever, form, checkpointer=saver)
        agent.invoke(asked(QUESTION), THREAD)
        # Another run has retrieved none of the passages; they are in the artifact.
        model = agent_model.model_copy(update={"store": SQLiteStore(tmp_path / "chunks")})
        state = create_agent(model, checkpointer=saver).invoke(asked("And why?"), THREAD)
        last = reports(state)[-1]
        assert (last["cache_hits"], last["cache_misses"]) == (3, 0)

    async def test_async_and_stream(
        self, agent_model: ChatRefrag, list_retriever: ListRetriever
    ) -> None:
        agent = self.make(agent_model, list_retriever, "content")
        expected = agent.invoke(asked(QUESTION))["messages"][-1].content
        assert (await agent.ainvoke(asked(QUESTION)))["messages"][-1].content == expected
        pieces = [
            chunk.text
            for chunk, metadata in agent.stream(asked(QUESTION), stream_mode="messages")
            if metadata["langgraph_node"] == "model" and not chunk.tool_call_chunks
        ]
        assert "".join(pieces) == expected

    def test_a_decoder_without_tools_is_refused(
        self, chat: ChatRefrag, list_retriever: ListRetriever
    ) -> None:
        with pytest.raises(ToolCallingError, match="no place for tools"):
            self.make(chat, list_retriever, "content").invoke(asked(QUESTION))


class Found(BaseModel):
    """What was found."""

    year: int
    place: str


def test_answers_by_a_schema(agent_model: ChatRefrag, list_retriever: ListRetriever) -> None:
    agent = create_agent(
        agent_model, middleware=[RefragMiddleware(list_retriever)], response_format=Found
    )
    state = agent.invoke(asked("In 1907 at 'Eastport'?"))
    assert state["structured_response"] == Found(year=1907, place="Eastport")


@tool
def archive(words: str) -> str:
    """Searches the archive."""
    return f"{HARBOUR} {RAIN}"


@tool(response_format="content_and_artifact")
def catalogue(words: str) -> tuple[str, list[Document]]:
    """Searches the catalogue."""
    return f"1. {HARBOUR}\n2. {RAIN}", [Document(page_content=t) for t in (HARBOUR, RAIN)]


class TestMiddleware:
    def test_results_of_any_tool_are_compressed(self, agent_model: ChatRefrag) -> None:
        plain = create_agent(agent_model, [archive]).invoke(asked(QUESTION))
        assert reports(plain)[-1]["context_tokens"] == 0
        store = MemoryStore()
        agent = create_agent(agent_model, [archive], middleware=[RefragMiddleware(store=store)])
        refrag = reports(agent.invoke(asked(QUESTION)))[-1]
        assert 0 < refrag["context_positions"] < refrag["context_tokens"]
        assert len(store) == 1

    @pytest.mark.parametrize("history", [False, True])
    def test_passages_of_an_artifact_stay_passages(
        self, agent_model: ChatRefrag, history: bool
    ) -> None:
        middleware = RefragMiddleware(history=history)
        agent = create_agent(agent_model, [catalogue], middleware=[middleware])
        state = agent.invoke(asked("When?"))
        refrag = reports(state)[-1]
        assert refrag["cache_hits"] + refrag["cache_misses"] == 2
        state = agent.invoke({"messages": [*state["messages"][:3], HumanMessage("And why?")]})
        assert reports(state)[-1]["cache_hits"] == 2

    def test_retrieves_for_decoders_without_tools(
        self, roomy_folder: Path, list_retriever: ListRetriever
    ) -> None:
        store = MemoryStore()
        chat = ChatRefrag(model=str(roomy_folder / "tiny"), max_tokens=4)
        middleware = RefragMiddleware(list_retriever, store=store)
        agent = create_agent(chat, middleware=[middleware], checkpointer=InMemorySaver())
        for question, known in ((QUESTION, 0), ("And why?", 3)):
            state = agent.invoke(asked(question), THREAD)
            refrag = reports(state)[-1]
            assert (refrag["cache_hits"], refrag["cache_misses"]) == (known, 3 - known)
            assert refrag["context_positions"] < refrag["context_tokens"]
        assert HARBOUR not in str(state["messages"])
        assert len(store) == 3

    async def test_async(self, roomy_folder: Path, list_retriever: ListRetriever) -> None:
        chat = ChatRefrag(model=str(roomy_folder / "tiny"), max_tokens=4)
        agent = create_agent(chat, middleware=[RefragMiddleware(list_retriever)])
        state = await agent.ainvoke(asked(QUESTION))
        assert (
            state["messages"][-1].content == agent.invoke(asked(QUESTION))["messages"][-1].content
        )
        assert reports(state)[-1]["chunks"] > 0

    @pytest.mark.parametrize("history", [False, True])
    def test_history(self, roomy_folder: Path, history: bool) -> None:
        chat = ChatRefrag(model=str(roomy_folder / "tiny"), max_tokens=4)
        agent = create_agent(chat, middleware=[RefragMiddleware(history=history)])
        turns = [HumanMessage(RAIN), AIMessage(HARBOUR), HumanMessage(f"{QUESTION} {'x ' * 30}")]
        (refrag,) = reports({"messages": agent.invoke({"messages": turns})["messages"][3:]})
        assert refrag["cache_hits"] + refrag["cache_misses"] == (2 if history else 0)
        assert (refrag["context_positions"] < refrag["context_tokens"]) is history

    def test_other_models_read_the_text(self, list_retriever: ListRetriever) -> None:
        seen = []

        class Model(FakeListChatModel):
            def _call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
                seen.append(messages)
                return super()._call(messages, *args, **kwargs)

        agent = create_agent(
            Model(responses=["In 1907."]), middleware=[RefragMiddleware(list_retriever)]
        )
        assert agent.invoke(asked(QUESTION))["messages"][-1].content == "In 1907."
        assert seen[0][-1].text.startswith(f"{HARBOUR}\n\n{RAIN}")
        assert seen[0][-1].text.endswith(QUESTION)

    @pytest.mark.parametrize("artifact", [None, "text", 3, [3], [{"title": "x"}], {"a": 1}])
    def test_other_artifacts_do_no_harm(self, roomy_folder: Path, artifact: object) -> None:
        call = AIMessage("", tool_calls=[{"name": "archive", "args": {}, "id": "1"}])
        result = ToolMessage(HARBOUR, tool_call_id="1", artifact=artifact)
        chat = ChatRefrag(model=str(roomy_folder / "tiny"), max_tokens=4)
        agent = create_agent(chat, middleware=[RefragMiddleware()])
        state = agent.invoke({"messages": [HumanMessage(QUESTION), call, result]})
        assert state["messages"][-1].response_metadata["refrag"]["chunks"] > 0


class TestExpand:
    """``context_expand``: the model asks for the text of what came in compressed."""

    @pytest.fixture
    def model(
        self, tool_folder: Path, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
    ) -> ChatRefrag:
        def reply(prompt: str) -> str:
            if "<|im_start|>tool" not in prompt.split("<|im_start|>user")[-1]:
                numbers = re.findall(r"Show (.*?)\.", prompt)[-1]
                arguments = {"numbers": json.loads(numbers)}
                call = {"name": "context_expand", "arguments": arguments}
                return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
            return "That is what it says."

        monkeypatch.setattr(scripted, "_reply", reply)
        return ChatRefrag(
            model=str(tool_folder), device="cpu", max_tokens=100, budget=0.0, rest="compress"
        )

    def test_a_passage_comes_back_as_text(
        self, model: ChatRefrag, list_retriever: ListRetriever
    ) -> None:
        agent = create_agent(model, middleware=[RefragMiddleware(list_retriever, expand=True)])
        state = agent.invoke(asked("Show [2, 2, 9]."))
        shown = state["messages"][2]
        assert shown.text == f"[2] {RAIN}\n\nThere is no number 9."
        before, after = reports(state)
        # Compressed where it was retrieved, and read as tokens where it was asked for.
        for key in ("context_tokens", "context_positions", "compressed", "expanded"):
            assert before[key] == after[key]
        assert before["compressed"] > 0
        assert after["positions"] - before["positions"] > len(RAIN.split())
        assert HARBOUR not in str(state["messages"])

    async def test_results_of_tools_have_the_numbers_that_follow(
        self, model: ChatRefrag, list_retriever: ListRetriever, scripted: ScriptedEngine
    ) -> None:
        middleware = RefragMiddleware(list_retriever, expand=True)
        agent = create_agent(model, [archive], middleware=[middleware])
        turn = [
            HumanMessage("Where?"),
            AIMessage("", tool_calls=[{"name": "archive", "args": {"words": "a"}, "id": "1"}]),
            ToolMessage(f"{HARBOUR} {RAIN}", tool_call_id="1", name="archive"),
            AIMessage("In the north."),
            HumanMessage("Show [4, 1]."),
        ]
        state = await agent.ainvoke({"messages": turn})
        assert state["messages"][-2].text == f"[4] {HARBOUR} {RAIN}\n\n[1] {HARBOUR}"
        assert f"[4] {HARBOUR} {RAIN}" in scripted.prompts[0]
        assert f"[1] {HARBOUR}" in scripted.prompts[0]

    def test_without_a_retriever_results_are_all_there_is(self, model: ChatRefrag) -> None:
        agent = create_agent(model, [archive], middleware=[RefragMiddleware(expand=True)])
        state = agent.invoke(asked("Show [1]."))
        assert state["messages"][2].text == "There is no number 1."
        state = agent.invoke(asked("Show []."))
        assert "Name the numbers" in state["messages"][2].text

    def test_the_tool_is_there_only_if_asked_for(self, list_retriever: ListRetriever) -> None:
        assert RefragMiddleware(list_retriever).tools == []
        (expand,) = RefragMiddleware(list_retriever, expand=True).tools
        assert expand.name == "context_expand"
        assert [*expand.tool_call_schema.model_json_schema()["properties"]] == ["numbers"]


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
    monkeypatch.delitem(sys.modules, "langchain_refrag.middleware")
    with pytest.raises(ImportError, match=r"refrag-components\[langchain-agents\]"):
        _ = langchain_refrag.RefragMiddleware
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = langchain_refrag.NoSuchName


def test_public_names_are_sorted_and_exist() -> None:
    assert langchain_refrag.__all__ == sorted(langchain_refrag.__all__)
    assert all(getattr(langchain_refrag, name) is not None for name in langchain_refrag.__all__)
