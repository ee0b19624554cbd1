"""Tools between LangChain's messages and the decoder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from refrag_components.generation.response_template import Piece, Thought
from refrag_components.generation.tools import AnswerForm, AnswerParts, Tools
from refrag_components.prompts.parts import ToolCall
from refrag_components.prompts.tool_calls import BrokenToolCall

__all__ = ["AnswerReader", "Tool", "read_tools"]

Tool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def read_tools(tools: Sequence[Tool] | None, choice: object = None) -> Tools:
    """Reads tools and a choice in any of the forms that LangChain's models take.

    Args:
        tools: Tools, functions, pydantic or typed dict classes, or JSON schemas.
        choice: As for ``Tools.of``.

    Raises:
        ToolCallingError: If the choice does not name a tool, or there is none to choose.
    """
    return Tools.of([convert_to_openai_tool(tool) for tool in tools or ()], choice)


class AnswerReader:
    """Turns an answer that may call tools into messages; for one answer only.

    Args:
        form: What the answer looks like.
    """

    def __init__(self, form: AnswerForm) -> None:
        self._parts = AnswerParts(form)
        self._calls = 0

    def message(self, text: str) -> AIMessage:
        """The message that a whole answer is."""
        parts = self._parts.push(text, last=True)
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
        """The messages for the next delta of an answer; none while none is certain."""
        return [self._chunk(part) for part in self._parts.push(text, last=last)]

    def _chunk(self, part: Piece) -> AIMessageChunk:
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


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex}"
