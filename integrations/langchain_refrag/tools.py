"""Tools between LangChain's messages and the decoder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_refrag.response_template import ResponseReader, Thought, has_response_template
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.exceptions import ToolCallingError
from refrag_components.prompts.parts import ControlPart, RenderedPart, TextPart, ToolCall
from refrag_components.prompts.tool_calls import BrokenToolCall, ToolCallParser, tool_call_style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AnswerReader", "Tool", "Tools", "calls_tools"]

Tool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
AnswerPart = str | Thought | ToolCall | BrokenToolCall

_ANY = "any"
_CHOICES: Mapping[object, str | None] = {
    None: None,
    False: None,
    "auto": None,
    "none": "none",
    "any": _ANY,
    "required": _ANY,
    True: _ANY,
}


@dataclass(frozen=True)
class Tools:
    """Tools that a call may use.

    Attributes:
        schemas: Their JSON schemas in OpenAI's form.
        choice: "any" for any tool, a tool's name for that tool; None leaves it to the decoder.
    """

    schemas: tuple[dict[str, Any], ...] = ()
    choice: str | None = None

    @classmethod
    def of(cls, tools: Sequence[Tool] | None, choice: object = None) -> Tools:
        """Reads tools and a choice in any of the forms that LangChain's models take.

        Args:
            tools: Tools, functions, pydantic or typed dict classes, or JSON schemas.
            choice: "auto", "none", "any", "required", a bool, the name of a tool, or OpenAI's dict
                of it.

        Raises:
            ToolCallingError: If the choice does not name a tool, or there is none to choose.
        """
        schemas = tuple(convert_to_openai_tool(tool) for tool in tools or ())
        if remote := [schema for schema in schemas if "function" not in schema]:
            msg = f"only functions can be called here, not {remote[0].get('type')!r}; leave it out"
            raise ToolCallingError(msg)
        names = [schema["function"]["name"] for schema in schemas]
        if isinstance(choice, Mapping):
            choice = choice.get("function", choice).get("name")
        wanted = choice if choice in names else _CHOICES.get(choice, choice)
        if wanted == "none":
            return cls()
        if wanted is not None and not (names and wanted in (_ANY, *names)):
            msg = f"tool_choice={choice!r} is not a bound tool; choose one of {', '.join(names)}"
            raise ToolCallingError(msg if names else "tool_choice needs tools; bind at least one")
        if wanted == _ANY and len(names) == 1:
            wanted = names[0]
        return cls(schemas, None if wanted is None else str(wanted))

    def refuse_server(self) -> None:
        """Refuses tools where a server answers, which lays out prompts without them.

        Raises:
            ToolCallingError: If there are tools.
        """
        if self.schemas:
            msg = "a server is not told about tools; use a model without base_url for them"
            raise ToolCallingError(msg)

    def reader(
        self,
        tokenizer: PreTrainedTokenizerBase,
        schema: AnswerSchema | None = None,
        prompt: str = "",
    ) -> AnswerReader:
        """What reads an answer, and begins and constrains it if a tool has to be called.

        Args:
            tokenizer: The decoder's.
            schema: JSON that the answer has to be, where no tool is called.
            prompt: What the chat template wrote into the prompt.

        Raises:
            StructuredOutputError: If a tool's schema cannot be enforced.
            ToolCallingError: If the decoder cannot be told about the tools, or there is a schema
                beside them.
        """
        if schema is not None and self.schemas:
            msg = (
                "an answer cannot be left to call tools and be kept to a response_format; bind no "
                "tools, or give the format as a tool (create_agent does with ToolStrategy)"
            )
            raise ToolCallingError(msg)
        free = schema is None and self.choice is None
        if free and has_response_template(tokenizer, calls=bool(self.schemas)):
            return AnswerReader(ResponseReader(tokenizer, prompt, self.schemas))
        if not self.schemas:
            return AnswerReader(None, schema=schema)
        style = tool_call_style(tokenizer)
        names = [schema["function"]["name"] for schema in self.schemas]
        if self.choice is None:
            return AnswerReader(ToolCallParser(names))
        begun = style.begin(None if self.choice == _ANY else self.choice)
        begun = begun.removeprefix(style.opening)
        prefix = (ControlPart(style.opening), TextPart(begun))
        chosen = [tool for tool in self.schemas if self.choice in (_ANY, tool["function"]["name"])]
        calls = _calls_schema([tool["function"] for tool in chosen], style.arguments)
        return AnswerReader(
            ToolCallParser(names),
            tuple(part for part in prefix if part.text),
            AnswerSchema.of(calls, prefix=begun),
        )


def calls_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a decoder can be told about tools and its calls can be read."""
    try:
        tool_call_style(tokenizer)
    except ToolCallingError:
        return False
    return True


class AnswerReader:
    """Turns an answer that may call tools into messages; for one answer only.

    Args:
        parser: Finds the calls, and thoughts if it can; None where all is text.
        prefix: The beginning of the answer, to be put at the end of the prompt.
        schema: JSON that the answer has to be; None for free text.
    """

    def __init__(
        self,
        parser: ToolCallParser | ResponseReader | None,
        prefix: tuple[RenderedPart, ...] = (),
        schema: AnswerSchema | None = None,
    ) -> None:
        self._parser = parser
        # What response templates look for are special tokens, as a rule.
        self.skip_special_tokens = not isinstance(parser, ResponseReader)
        self.prefix = prefix
        self.schema = schema
        self._pending = "".join(part.text for part in prefix)
        self._calls = 0

    def message(self, text: str) -> AIMessage:
        """The message that a whole answer is."""
        parts = self._parts(text, last=True)
        calls = [part for part in parts if isinstance(part, ToolCall)]
        broken = [part for part in parts if isinstance(part, BrokenToolCall)]
        return AIMessage(
            content="".join(part for part in parts if isinstance(part, str)),
            additional_kwargs=_reasoning(
                "".join(part.text for part in parts if isinstance(part, Thought))
            ),
            tool_calls=[
                tool_call(name=call.name, args=dict(call.arguments), id=_new_id()) for call in calls
            ],
            invalid_tool_calls=[
                invalid_tool_call(name=call.name, args=call.text, id=_new_id(), error=call.error)
                for call in broken
            ],
        )

    def chunks(self, text: str, *, last: bool) -> list[AIMessageChunk]:
        """The messages for the next delta of an answer; at least one if it is the last."""
        chunks = [self._chunk(part) for part in self._parts(text, last=last)]
        return chunks if chunks or not last else [AIMessageChunk(content="")]

    def _parts(self, text: str, *, last: bool) -> list[AnswerPart]:
        if self._parser is None:
            return [text] if text else []
        found = self._parser.push(self._pending + text)
        self._pending = ""
        return [*found, *self._parser.finish()] if last else [*found]

    def _chunk(self, part: AnswerPart) -> AIMessageChunk:
        if isinstance(part, str):
            return AIMessageChunk(content=part)
        if isinstance(part, Thought):
            return AIMessageChunk(content="", additional_kwargs=_reasoning(part.text))
        # A broken call keeps its tag, so that half a JSON object is not taken for a whole one.
        args = json.dumps(part.arguments) if isinstance(part, ToolCall) else part.text
        chunk = tool_call_chunk(name=part.name, args=args, id=_new_id(), index=self._calls)
        self._calls += 1
        return AIMessageChunk(content="", tool_call_chunks=[chunk])


def _reasoning(thoughts: str) -> dict[str, str]:
    """Where LangChain looks for what a model has thought."""
    return {"reasoning_content": thoughts} if thoughts else {}


def _calls_schema(functions: Sequence[Mapping[str, Any]], arguments: str) -> dict[str, Any]:
    """The JSON schema of a call of one of some functions, as chat templates write it."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for function in functions:
        parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
        own = parameters.pop("$defs", {})  # references to them count from the root
        if clash := [name for name in own if definitions.get(name, own[name]) != own[name]]:
            msg = f"two tools define {clash[0]!r} differently in $defs; rename one or choose a tool"
            raise ToolCallingError(msg)
        definitions |= own
        call = {"name": {"const": function["name"]}, arguments: parameters}
        calls.append({"type": "object", "properties": call, "required": list(call)})
    return {"anyOf": calls, "$defs": definitions}


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex}"
