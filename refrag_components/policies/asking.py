"""Any chat model as a function from prompts to replies."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Ask", "asking", "numbers_in"]

#: Prompts to the replies of a model, in order.
Ask = Callable[[Sequence[str]], list[str]]

# Its tokens are not part of the answer that LangGraph streams.
_CONFIG = {"tags": ["nostream", "langsmith:nostream"]}
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.-])\d{1,6}(?![\w-]|\.\d)")


def asking(llm: Any) -> Ask:
    """A chat model of LangChain (``invoke``) or LlamaIndex (``complete``), or any function.

    Args:
        llm: The model, or a function from a prompt to a reply. Several prompts are sent together
            if LangChain's ``batch`` is there.

    Raises:
        TypeError: If it is none of these.
    """
    if hasattr(llm, "batch"):
        return lambda prompts: [
            _text(reply) for reply in llm.batch(list(prompts), config=dict(_CONFIG))
        ]
    if hasattr(llm, "complete"):
        return lambda prompts: [str(llm.complete(prompt).text) for prompt in prompts]
    if callable(llm):
        return lambda prompts: [str(llm(prompt)) for prompt in prompts]
    msg = (
        f"{type(llm).__name__} is not a chat model of LangChain or LlamaIndex, nor a function from "
        "a prompt to a reply"
    )
    raise TypeError(msg)


def _text(reply: Any) -> str:
    """The text of a message; completion models reply with a string."""
    if isinstance(reply, str):
        return reply
    content = reply.content
    if isinstance(content, str):
        return content
    blocks = (block if isinstance(block, str) else block.get("text", "") for block in content)
    return "".join(map(str, blocks))


def numbers_in(reply: str, most: int) -> list[int]:
    """The numbers from 1 to ``most`` that a reply names, in its order, each once.

    What a model thinks aloud in ``<think>`` does not count.
    """
    named = (int(match[0]) for match in _NUMBER.finditer(_THOUGHT.sub("", reply)))
    return [number for number in dict.fromkeys(named) if 1 <= number <= most]
