"""What middleware finds in the messages of an agent, and puts into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from refrag_components.prompts.resolver import document_text

__all__ = ["carries_documents", "latest_question", "with_passages"]


def carries_documents(message: BaseMessage) -> bool:
    """Whether passages were handed over with a text; ``ChatRefrag`` finds those itself."""
    if message.additional_kwargs.get("documents"):
        return True
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    if not isinstance(artifact, Sequence) or isinstance(artifact, str):
        return False
    try:
        return any(isinstance(item, Document) or document_text(item) for item in artifact)
    except TypeError:
        return False


def latest_question(messages: Sequence[BaseMessage]) -> int | None:
    """Index of the latest human message."""
    human = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return human[-1] if human else None


def with_passages(messages: Sequence[Any], position: int, passages: Sequence[str]) -> list[Any]:
    """The messages with passages before the question, in the message at ``position``."""
    question = messages[position]
    before = [{"type": "text", "text": f"{passage}\n\n"} for passage in passages]
    content = question.content
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    asking = question.model_copy(update={"content": [*before, *blocks]})
    return [*messages[:position], asking, *messages[position + 1 :]]
