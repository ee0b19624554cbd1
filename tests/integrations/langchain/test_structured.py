"""Structured output that is enforced: random decoders, and every answer fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import jsonschema
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field, field_validator

from langchain_refrag import ChatRefrag
from refrag_components.engines.base import EngineDelta, EngineOutput, FinishReason
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.exceptions import StructuredOutputError, ToolCallingError


class Found(BaseModel):
    """What was found."""

    year: int = Field(ge=0, le=2100)
    place: str = Field(max_length=8)


class Both(TypedDict):
    """What was found."""

    sure: Annotated[bool, ..., "Whether it is certain."]
    also: Annotated[bool, ..., "Whether there is more."]


class Tree(BaseModel):
    """Holds others."""

    branches: list[Tree] = Field(max_length=1)


class Odd(BaseModel):
    """A year that is never right."""

    year: int = Field(ge=0, le=2100)

    @field_validator("year")
    @classmethod
    def refuse(cls, year: int) -> int:
        raise ValueError(year)


SCHEMA: dict[str, Any] = {
    "title": "found",
    "type": "object",
    "properties": {
        "year": {"type": "integer", "minimum": 0, "maximum": 2100},
        "kinds": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["year", "kinds"],
}


@pytest.fixture(params=["no tools", "tools"])
def chat(request: pytest.FixtureRequest, tiny_folder: Path, tool_folder: Path) -> ChatRefrag:
    """Random decoders: one whose template knows no tools, one whose template does."""
    folder = tiny_folder if request.param == "no tools" else tool_folder
    return ChatRefrag(model=str(folder), device="cpu", max_tokens=150, seed=1)


@pytest.fixture
def plain(tiny_folder: Path) -> ChatRefrag:
    return ChatRefrag(model=str(tiny_folder), device="cpu", max_tokens=150, seed=1)


@pytest.fixture
def calling(tool_folder: Path) -> ChatRefrag:
    return ChatRefrag(model=str(tool_folder), device="cpu", max_tokens=150, temperature=1.0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
class TestEveryAnswerFits:
    def test_a_pydantic_class(self, chat: ChatRefrag, temperature: float) -> None:
        model = chat.with_structured_output(Found)
        for seed in range(3):
            settings = {"temperature": temperature, "seed": seed}
            assert isinstance(model.invoke("When?", **settings), Found)
        assert [type(found) for found in model.stream("When?", **settings)] == [Found]

    def test_a_json_schema(self, chat: ChatRefrag, temperature: float) -> None:
        model = chat.with_structured_output(SCHEMA)
        found = model.invoke("When?", temperature=temperature)
        jsonschema.validate(found, SCHEMA)
        assert list(model.stream("When?", temperature=temperature))[-1] == found

    def test_a_typed_dict(self, chat: ChatRefrag, temperature: float) -> None:
        found = chat.with_structured_output(Both).invoke("Sure?", temperature=temperature)
        assert isinstance(found, dict)
        assert {name: type(value) for name, value in found.items()} == {"sure": bool, "also": bool}

    async def test_async_and_in_batches(self, chat: ChatRefrag, temperature: float) -> None:
        model = chat.with_structured_output(Found)
        found = [
            await model.ainvoke("When?", temperature=temperature),
            *model.batch(["When?", "And then?"], temperature=temperature),
        ]
        assert all(isinstance(one, Found) for one in found)


def test_a_class_that_holds_itself(plain: ChatRefrag) -> None:
    assert isinstance(plain.with_structured_output(Tree).invoke("x"), Tree)


def test_raw_answers(chat: ChatRefrag) -> None:
    result = chat.with_structured_output(Found, include_raw=True).invoke("When?")
    assert isinstance(result, dict)
    assert isinstance(result["parsed"], Found)
    assert result["parsing_error"] is None
    assert result["raw"].response_metadata["refrag"]


@pytest.mark.parametrize("max_tokens", [1, 10])
class TestTooFewTokens:
    def test_are_an_error(self, chat: ChatRefrag, max_tokens: int) -> None:
        for schema in (Found, SCHEMA):
            model = chat.with_structured_output(schema)
            with pytest.raises(StructuredOutputError, match="raise max_tokens"):
                model.invoke("When?", max_tokens=max_tokens)
            with pytest.raises(StructuredOutputError, match="raise max_tokens"):
                list(model.stream("When?", max_tokens=max_tokens))

    def test_are_reported_with_the_raw_answer(self, chat: ChatRefrag, max_tokens: int) -> None:
        chat = chat.model_copy(update={"max_tokens": max_tokens})
        result = chat.with_structured_output(Found, include_raw=True).invoke("When?")
        assert isinstance(result, dict)
        assert result["parsed"] is None
        assert isinstance(result["parsing_error"], StructuredOutputError)


def test_what_a_schema_cannot_say_is_left_to_the_parser(chat: ChatRefrag) -> None:
    result = chat.with_structured_output(Odd, include_raw=True).invoke("When?")
    assert isinstance(result, dict)
    assert result["parsed"] is None
    assert not isinstance(result["parsing_error"], StructuredOutputError | None)


class Says:
    """An engine with one answer."""

    def __init__(self, text: str, reason: FinishReason) -> None:
        self.text = text
        self.reason = reason

    def generate(self, layouts: Sequence[Layout], params: Any) -> list[EngineOutput]:
        return [EngineOutput(self.text, (0,), self.reason, 0.0, 1) for _ in layouts]

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        for character in self.text:
            yield EngineDelta(character, (0,), None)
        yield EngineDelta("", (), self.reason)


class TestJsonMode:
    """Nothing is enforced, and nothing is made up."""

    @pytest.mark.parametrize(
        "text", ['{"year": 19', 'Sure: {"year": 1907, "pl', "Well, [1, 2", "No"]
    )
    async def test_half_an_object_is_an_error(self, plain: ChatRefrag, text: str) -> None:
        plain.engine = Says(text, "length")
        for schema in (SCHEMA, Found):
            model = plain.with_structured_output(schema, method="json_mode")
            with pytest.raises(StructuredOutputError, match="raise max_tokens"):
                model.invoke("x")
            with pytest.raises(StructuredOutputError, match="raise max_tokens"):
                await model.ainvoke("x")
            with pytest.raises(StructuredOutputError, match="raise max_tokens"):
                list(model.stream("x"))
        raw = plain.with_structured_output(SCHEMA, method="json_mode", include_raw=True)
        assert isinstance(raw.invoke("x"), dict)
        assert isinstance(raw.invoke("x")["parsing_error"], StructuredOutputError)  # type: ignore[index]

    @pytest.mark.parametrize(
        "text", ['{"year": 1907}', '{"year": 1907} and', '```json\n{"year": 1907}\n```']
    )
    @pytest.mark.parametrize("reason", ["length", "stop"])
    async def test_a_whole_one_is_parsed(
        self, plain: ChatRefrag, text: str, reason: FinishReason
    ) -> None:
        plain.engine = Says(text, reason)
        model = plain.with_structured_output(SCHEMA, method="json_mode")
        assert model.invoke("x") == await model.ainvoke("x") == {"year": 1907}
        assert list(model.stream("x"))[-1] == {"year": 1907}
        assert [found async for found in model.astream("x")][-1] == {"year": 1907}


class TestMistakes:
    def test_schemas_that_cannot_be_enforced(self, chat: ChatRefrag) -> None:
        schema = SCHEMA | {"properties": {"year": {"not": {"type": "string"}}}}
        with pytest.raises(StructuredOutputError, match='"not"'):
            chat.with_structured_output(schema)

    def test_methods_that_do_not_exist(self, plain: ChatRefrag) -> None:
        with pytest.raises(ValueError, match="function_calling, json_mode and json_schema"):
            plain.with_structured_output(Found, method="grammar")
        with pytest.raises(ValueError, match="colour"):
            plain.with_structured_output(Found, colour="red")

    def test_tools_beside_a_format(self, calling: ChatRefrag) -> None:
        response_format = ProviderStrategy(Found).to_model_kwargs()["response_format"]
        with pytest.raises(ToolCallingError, match="ToolStrategy"):
            calling.bind_tools([look]).invoke("x", response_format=response_format)

    @pytest.mark.parametrize("response_format", ["json", {"type": "json_object"}])
    def test_other_formats(self, plain: ChatRefrag, response_format: Any) -> None:
        with pytest.raises(StructuredOutputError, match="response_format must be"):
            plain.invoke("x", response_format=response_format)


needs_profile = pytest.mark.skipif(
    not hasattr(BaseChatModel, "_resolve_model_profile"),
    reason="this langchain-core asks no model for its profile",
)


@pytest.mark.parametrize(
    "strategy", [ProviderStrategy(Found), pytest.param(Found, marks=needs_profile)]
)
def test_an_agent_of_a_decoder_without_tools(plain: ChatRefrag, strategy: Any) -> None:
    agent = create_agent(plain, response_format=strategy)
    state = agent.invoke({"messages": [("human", "When?")]})
    assert isinstance(state["structured_response"], Found)


@tool
def look(words: list[str]) -> str:
    """Looks something up."""
    return " ".join(words)


@tool
def wait(minutes: float, why: Found) -> str:
    """Waits."""
    return str(why)


@pytest.mark.parametrize("choice", ["any", "wait", "look"])
def test_a_chosen_tool_is_called_as_it_wants(calling: ChatRefrag, choice: str) -> None:
    model = calling.bind_tools([look, wait], tool_choice=choice)
    called = set()
    for seed in range(6):
        answer = model.invoke("Go on.", seed=seed, max_tokens=400)
        assert isinstance(answer, AIMessage)
        if answer.response_metadata["finish_reason"] == "length":
            continue  # a list of words may go on for ever
        (call,) = answer.tool_calls
        assert answer.invalid_tool_calls == []
        known = {"look": look, "wait": wait}[call["name"]]
        assert known.invoke(json.loads(json.dumps(call["args"]))) is not None
        called.add(call["name"])
    assert called
    assert choice == "any" or called == {choice}
