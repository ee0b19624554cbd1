"""LangChain messages to the messages of the prompt, with the passages in them resolved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_refrag.documents import document_stores
from refrag_components.prompts.conversation import Block, Conversation, Turn, resolve_turns
from refrag_components.prompts.parts import ToolCall
from refrag_components.prompts.resolver import Resolver

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["LITERAL", "Conversation", "resolve_messages", "without_media"]

#: Under this name in ``additional_kwargs``: whether a message is read as tokens as it stands.
LITERAL = "refrag_literal"

_ROLES: Mapping[type[BaseMessage], str] = {
    AIMessage: "assistant",
    FunctionMessage: "tool",
    HumanMessage: "user",
    SystemMessage: "system",
    ToolMessage: "tool",
}


def resolve_messages(
    messages: Sequence[BaseMessage], documents: object, resolver: Resolver
) -> Conversation:
    """Resolves the passages in messages, see ``resolve_turns``.

    Documents of a message are the artifact of a tool message and those under
    ``additional_kwargs["documents"]``, which is where they are attached; blocks with a key have
    ``extras={"refrag": {"key": ...}}``.

    Args:
        messages: What the chat model received.
        documents: The ``documents`` keyword of the call, or None.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If there is no message or the last user message is blank.
        TypeError: If ``documents`` is not a list of documents.
        ValueError: If a message holds something other than text.
    """
    turns = [_turn(message, resolver) for message in messages]
    return resolve_turns(turns, document_stores(documents, resolver), resolver)


def without_media(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str]]:
    """Copies of messages with nothing but text in those that are not answers, and warnings."""
    kept: list[BaseMessage] = []
    skipped: Counter[str] = Counter()
    for message in messages:
        if isinstance(message, AIMessage) or isinstance(message.content, str):
            kept.append(message)
            continue
        text = [block for block in message.content if _is_text(block)]
        skipped.update(
            str(block.get("type"))
            for block in message.content
            if isinstance(block, dict) and not _is_text(block)
        )
        kept.append(message.model_copy(update={"content": text}))
    return kept, [
        f"{n} {kind!r} blocks were left out: only text is read" for kind, n in skipped.items()
    ]


def _is_text(block: str | dict[str, Any]) -> bool:
    return isinstance(block, str) or block.get("type") == "text"


def _turn(message: BaseMessage, resolver: Resolver) -> Turn:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return Turn(
        role=_role(message),
        blocks=list(_blocks(message)),
        attached=_documents_or_none(message.additional_kwargs.get("documents"), resolver),
        mentioned=_documents_or_none(getattr(message, "artifact", None), resolver),
        calls=tuple(ToolCall(call["name"], call["args"]) for call in calls),
        tool=message.name if isinstance(message, (FunctionMessage, ToolMessage)) else None,
        literal=message.additional_kwargs.get(LITERAL) is True,
    )


def _blocks(message: BaseMessage) -> Iterator[Block]:
    content = [message.content] if isinstance(message.content, str) else message.content
    for block in content:
        if isinstance(block, str):
            yield Block(block)
        elif block.get("type") == "text":
            claim = (block.get("extras") or {}).get("refrag")
            key = claim.get("key", "") if isinstance(claim, Mapping) else None
            yield Block(block["text"], key)
        elif not isinstance(message, AIMessage):  # those also hold tool calls and reasoning
            msg = (
                f"a {message.type} message holds a {block.get('type')!r} block; only text is read. "
                "Leave it out, or make the model with skip_media=True"
            )
            raise ValueError(msg)


def _documents_or_none(documents: object, resolver: Resolver) -> dict[str, ChunkStore | None]:
    """Documents where messages carry them; artifacts of other tools are ignored."""
    try:
        return document_stores(documents, resolver)
    except TypeError:
        return {}


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        if not message.role.isidentifier():  # the template prints it among its control tokens
            msg = f"the role of a chat message must be one word, got {message.role!r}"
            raise ValueError(msg)
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    msg = f"cannot answer a conversation that holds a {message.type} message"
    raise ValueError(msg)
