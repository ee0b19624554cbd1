"""Tools as LlamaIndex binds them, and the calls that it reads from a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from llama_index.llms.refrag.tools import first_call_only, schemas_of, selections

__all__ = ["ToolCallingLLM"]


class ToolCallingLLM(FunctionCallingLLM):
    """An LLM that takes ``tools`` and ``tool_choice`` with a call of ``chat``."""

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls in a response.

        Args:
            response: What ``chat_with_tools`` and the like returned.
            error_on_no_tool_call: Whether there has to be one.
            **kwargs: Not used.

        Raises:
            ValueError: If there is none and there has to be one.
        """
        found = selections(response)
        if not found and error_on_no_tool_call:
            msg = (
                f"the answer calls no tool: {response.message.content!r}; ask with "
                "tool_required=True, or pass error_on_no_tool_call=False"
            )
            raise ValueError(msg)
        return found

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = [*(chat_history or ())]
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        choice = kwargs.pop("tool_choice", None) or ("required" if tool_required else None)
        return {"messages": messages, "tools": schemas_of(tools), "tool_choice": choice, **kwargs}

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else first_call_only(response)
