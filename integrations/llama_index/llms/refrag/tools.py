"""Tools between LlamaIndex' messages and the decoder."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from refrag_components.checking import parse_json
from refrag_components.generation.response_template import Piece, Thought
from refrag_components.prompts.parts import ToolCall
from refrag_components.prompts.tool_calls import BrokenToolCall

__all__ = ["SaidSoFar", "called", "first_call_only", "schemas_of", "selections"]


def schemas_of(tools: Sequence[BaseTool | Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """JSON schemas of tools in OpenAI's form, in which they may also be given."""
    return [
        tool.metadata.to_openai_tool(skip_length_check=True) if isinstance(tool, BaseTool) else tool
        for tool in tools or ()
    ]


class SaidSoFar:
    """The message that an answer is, as it grows.

    Attributes:
        text: Its text. A call that cannot be read stays text, so that nothing is called by mistake.
        warnings: About calls that cannot be read.
    """

    def __init__(self) -> None:
        self.text = ""
        self.warnings: list[str] = []
        self._thoughts = ""
        self._calls: list[ContentBlock] = []

    def add(self, pieces: Sequence[Piece]) -> str:
        """Adds pieces of the answer; returns what they add to its text."""
        before = len(self.text)
        for piece in pieces:
            if isinstance(piece, str):
                self.text += piece
            elif isinstance(piece, Thought):
                self._thoughts += piece.text
            elif isinstance(piece, ToolCall):
                self._calls.append(
                    ToolCallBlock(
                        tool_call_id=f"call_{uuid.uuid4().hex}",
                        tool_name=piece.name,
                        tool_kwargs=dict(piece.arguments),
                    )
                )
            else:
                self._break(piece)
        return self.text[before:]

    def _break(self, call: BrokenToolCall) -> None:
        self.text += call.text
        self.warnings.append(f"a tool call could not be read ({call.error}); it was left as text")

    def message(self) -> ChatMessage:
        """The message: thoughts, text and calls, with the text first if there is nothing else."""
        blocks: list[ContentBlock] = []
        if self._thoughts:
            blocks.append(ThinkingBlock(content=self._thoughts))
        if self.text or not (self._thoughts or self._calls):
            blocks.append(TextBlock(text=self.text))
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*blocks, *self._calls])


def selections(response: ChatResponse) -> list[ToolSelection]:
    """The calls in a response."""
    return [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=dict(called(block).arguments),
        )
        for block in response.message.blocks
        if isinstance(block, ToolCallBlock)
    ]


def first_call_only(response: ChatResponse) -> ChatResponse:
    """The response without any call but the first."""
    calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    message = response.message.model_copy(
        update={"blocks": [block for block in response.message.blocks if block not in calls[1:]]}
    )
    return response.model_copy(update={"message": message})


def called(block: ToolCallBlock) -> ToolCall:
    """The call of a block; arguments that are not a JSON object are kept as text."""
    arguments: Any = block.tool_kwargs
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": block.tool_kwargs}
    return ToolCall(block.tool_name, arguments)
