"""RefragLLM whose decoder calls tools: LlamaIndex' FunctionCallingLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field

from llama_index.llms.refrag import RefragLLM
from llama_index.llms.refrag.tools import SaidSoFar, called
from llama_index.retrievers.refrag import RefragRetriever
from refrag_components.exceptions import StructuredOutputError, ToolCallingError
from refrag_components.generation.response_template import Thought
from refrag_components.prompts.tool_calls import BrokenToolCall
from tests.integrations.llama_index.conftest import ListRetriever
from tests.integrations.scripted import ScriptedEngine

QUESTION = "What does the archive say of 'ships'?"


class Found(BaseModel):
    """What was found."""

    year: int = Field(ge=0, le=2100)
    place: str = Field(max_length=8)


def search(words: str) -> str:
    """Searches the archive."""
    return f"Nothing about {words}."


def depth(metres: int) -> str:
    """Converts a depth."""
    return f"{metres} m"


TOOLS = [FunctionTool.from_defaults(search), FunctionTool.from_defaults(depth)]


@pytest.fixture
def calling(tool_folder: Path, scripted: ScriptedEngine) -> RefragLLM:
    return RefragLLM(model=str(tool_folder), device="cpu", max_tokens=200)


class TestMetadata:
    def test_follows_the_chat_template(self, calling: RefragLLM, llm: RefragLLM) -> None:
        assert isinstance(llm, FunctionCallingLLM)
        assert calling.metadata.is_function_calling_model
        assert not llm.metadata.is_function_calling_model

    def test_loads_no_weights(self, tool_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "copy").symlink_to(tool_folder)  # another name: nothing is loaded under it
        assert RefragLLM(model=str(tmp_path / "copy")).metadata.is_function_calling_model


class TestCalls:
    async def test_every_way(self, calling: RefragLLM) -> None:
        streamed = list(calling.stream_chat_with_tools(TOOLS, QUESTION))
        astreamed = [r async for r in await calling.astream_chat_with_tools(TOOLS, QUESTION)]
        for response in (
            calling.chat_with_tools(TOOLS, QUESTION),
            await calling.achat_with_tools(TOOLS, ChatMessage(content=QUESTION)),
            calling.chat_with_tools(TOOLS, chat_history=[ChatMessage(content=QUESTION)]),
            streamed[-1],
            astreamed[-1],
        ):
            (call,) = calling.get_tool_calls_from_response(response)
            assert (call.tool_name, call.tool_kwargs) == ("search", {"words": "ships"})
            assert call.tool_id.startswith("call_")
            assert not response.message.content
            assert response.raw is not None
            assert response.raw["refrag"]["output_tokens"] > 0

    def test_are_made(self, calling: RefragLLM) -> None:
        assert calling.predict_and_call(TOOLS, QUESTION).response == "Nothing about ships."

    def test_several_at_once_if_they_may(self, calling: RefragLLM) -> None:
        asked = "search and depth of 4"
        both = calling.chat_with_tools(TOOLS, asked, allow_parallel_tool_calls=True)
        one = calling.chat_with_tools(TOOLS, asked)
        names = [
            [call.tool_name for call in calling.get_tool_calls_from_response(response)]
            for response in (both, one)
        ]
        assert names == [["search", "depth"], ["search"]]

    def test_results_are_read_under_the_tools_name(
        self, calling: RefragLLM, scripted: ScriptedEngine
    ) -> None:
        first = calling.chat_with_tools(TOOLS, QUESTION)
        (call,) = calling.get_tool_calls_from_response(first)
        result = ChatMessage(
            role=MessageRole.TOOL,
            content="Nothing.",
            additional_kwargs={"tool_call_id": call.tool_id},
        )
        history = [ChatMessage(content=QUESTION), first.message, result]
        answer = calling.chat_with_tools(TOOLS, chat_history=history)
        assert answer.message.content == "That is what it says."
        assert '{"name": "search", "arguments": {"words": "ships"}}' in scripted.prompts[-1]
        assert calling.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
        with pytest.raises(ValueError, match="tool_required=True"):
            calling.get_tool_calls_from_response(answer)

    @pytest.mark.parametrize("choice", ["depth", {"function": {"name": "depth"}}])
    def test_a_chosen_one(self, calling: RefragLLM, choice: Any) -> None:
        response = calling.chat_with_tools(TOOLS, "How deep is 4?", tool_choice=choice)
        (call,) = calling.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("depth", {"metres": 4})

    def test_none_hides_the_tools(self, calling: RefragLLM, scripted: ScriptedEngine) -> None:
        calling.chat_with_tools(TOOLS, QUESTION, tool_choice="none", max_tokens=2)
        assert "archive." not in scripted.prompts[-1]

    def test_required_calls_fit_their_schema(self, tool_folder: Path) -> None:
        """Whatever the decoder would rather say: this one says nothing of sense."""
        llm = RefragLLM(model=str(tool_folder), device="cpu", max_tokens=120)
        response = llm.chat_with_tools(TOOLS[1:], "How deep?", tool_required=True)
        (call,) = llm.get_tool_calls_from_response(response)
        assert call.tool_name == "depth"
        assert isinstance(call.tool_kwargs["metres"], int)

    def test_half_a_call_is_an_error(self, tool_folder: Path) -> None:
        llm = RefragLLM(model=str(tool_folder), device="cpu", max_tokens=2)
        with pytest.raises(StructuredOutputError, match="raise max_tokens"):
            llm.chat_with_tools(TOOLS, "How deep?", tool_required=True)

    def test_what_cannot_be_read_stays_text(
        self, calling: RefragLLM, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scripted, "_reply", lambda _: '<tool_call>{"name": "search", "ar')
        response = calling.chat_with_tools(TOOLS, QUESTION)
        assert calling.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        assert response.message.content == '<tool_call>{"name": "search", "ar'
        assert response.raw is not None
        assert "could not be read" in response.raw["refrag"]["warnings"][0]

    def test_decoders_without_tools_refuse_them(self, llm: RefragLLM) -> None:
        with pytest.raises(ToolCallingError, match="no place for tools"):
            llm.chat_with_tools(TOOLS, QUESTION)

    def test_a_schema_beside_tools(self, calling: RefragLLM) -> None:
        with pytest.raises(ToolCallingError, match="cannot be left to call tools"):
            calling.chat_with_tools(TOOLS, QUESTION, json_schema={"type": "object"})


class TestAgents:
    @pytest.mark.parametrize("streaming", [True, False])
    async def test_of_functions(self, calling: RefragLLM, streaming: bool) -> None:
        agent = FunctionAgent(tools=[search, depth], llm=calling, streaming=streaming)
        handler = agent.run(QUESTION)
        results = [event async for event in handler.stream_events()]
        called = [event for event in results if isinstance(event, ToolCallResult)]
        assert [event.tool_kwargs for event in called] == [{"words": "ships"}]
        assert str(await handler) == "That is what it says."

    async def test_results_of_a_retrieving_tool_are_compressed(
        self, calling: RefragLLM, list_retriever: ListRetriever
    ) -> None:
        retriever = RefragRetriever(list_retriever)

        def search(words: str) -> str:
            """Searches the archive."""
            return "\n\n".join(each.text for each in retriever.retrieve(words))

        agent = FunctionAgent(tools=[search], llm=calling, streaming=False)
        output = await agent.run(QUESTION)
        assert str(output) == "That is what it says."
        refrag = output.raw["refrag"]
        assert 0 < refrag["context_positions"] < refrag["context_tokens"]

    def test_a_workflow_chooses_by_the_decoder(self, calling: RefragLLM, llm: RefragLLM) -> None:
        kinds = [
            type(AgentWorkflow.from_tools_or_functions([search], llm=each).agents["Agent"])
            for each in (calling, llm)
        ]
        assert kinds == [FunctionAgent, ReActAgent]


class TestStructuredPredict:
    SETTINGS: ClassVar[Any] = {"max_tokens": 120, "temperature": 1.0, "seed": 1}

    @pytest.fixture
    def real(self, tool_folder: Path) -> RefragLLM:
        return RefragLLM(model=str(tool_folder), device="cpu")

    @pytest.mark.parametrize("mode", ["default", "function", "llm"])
    async def test_every_answer_fits(self, real: RefragLLM, mode: Any) -> None:
        llm = real.model_copy(update={"pydantic_program_mode": PydanticProgramMode(mode)})
        prompt = PromptTemplate("When was {what} dug?")
        found = llm.structured_predict(Found, prompt, self.SETTINGS, what="the harbour")
        assert isinstance(found, Found)
        again = await llm.astructured_predict(Found, prompt, self.SETTINGS, what="the harbour")
        assert again == found

    async def test_as_a_stream(self, real: RefragLLM, llm: RefragLLM) -> None:
        prompt = PromptTemplate("When was {what} dug?")
        for each in (real, llm):
            (found,) = each.stream_structured_predict(Found, prompt, self.SETTINGS, what="it")
            stream = await each.astream_structured_predict(Found, prompt, self.SETTINGS, what="it")
            assert [again async for again in stream] == [found]

    def test_the_schema_is_told_as_a_tool(
        self, calling: RefragLLM, scripted: ScriptedEngine
    ) -> None:
        found = calling.structured_predict(Found, PromptTemplate("When, in 'Rome'? In 7."))
        assert found == Found(year=7, place="Rome")
        assert '"name": "Found"' in scripted.prompts[-1]

    def test_half_an_answer_is_an_error(self, real: RefragLLM) -> None:
        with pytest.raises(StructuredOutputError, match="raise max_tokens"):
            real.structured_predict(Found, PromptTemplate("When?"), {"max_tokens": 2})


class TestMessages:
    def test_thoughts_text_and_calls(self) -> None:
        said = SaidSoFar()
        assert said.add([Thought("Hm. "), "Let ", Thought("Ah.")]) == "Let "
        assert said.add(["me see."]) == "me see."
        said.add([BrokenToolCall(None, "<tool_call>{", "half")])
        message = said.message()
        assert message.blocks == [
            ThinkingBlock(content="Hm. Ah."),
            TextBlock(text="Let me see.<tool_call>{"),
        ]

    @pytest.mark.parametrize("arguments", ['{"words": "x"}', {"words": "x"}])
    def test_arguments_as_text(self, arguments: Any) -> None:
        block = ToolCallBlock(tool_name="search", tool_kwargs=arguments)
        assert called(block).arguments == {"words": "x"}

    def test_arguments_that_are_no_object(self) -> None:
        block = ToolCallBlock(tool_name="search", tool_kwargs="[1")
        assert called(block).arguments == {"arguments": "[1"}
