"""LangChain messages to the messages of the prompt, with the passages in them resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.parts import Message, Part, TextPart, ToolCall
from refrag_components.prompts.resolver import Resolved, Resolver

if TYPE_CHECKING:
    from refrag_components.stores.base import ChunkStore

__all__ = ["Conversation", "resolve_messages"]

_ROLES: Mapping[type[BaseMessage], str] = {
    AIMessage: "assistant",
    FunctionMessage: "tool",
    HumanMessage: "user",
    SystemMessage: "system",
    ToolMessage: "tool",
}


@dataclass(frozen=True)
class Conversation:
    """Messages that are ready for the chat template.

    Attributes:
        messages: The turns, in order.
        question: What the user asks: the ordinary text of the last human message.
        warnings: What claimed to be a passage and could not be resolved.
    """

    messages: tuple[Message, ...]
    question: str
    warnings: tuple[str, ...]


def resolve_messages(
    messages: Sequence[BaseMessage], documents: object, resolver: Resolver
) -> Conversation:
    """Resolves the passages in messages.

    Passages come in five ways: as ``documents``; as the artifact of a tool message or under
    ``additional_kwargs["documents"]``; as text blocks with ``extras={"refrag": {"key": ...}}``; in
    envelopes; and as text that a retriever registered. Documents are compressed where their text
    stands. Those of the call and of ``additional_kwargs`` whose text stands nowhere are put before
    the last human message and before the message that carries them.

    Args:
        messages: What the chat model received.
        documents: The ``documents`` keyword of the call, or None.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If there is no message or the last human message is blank.
        TypeError: If ``documents`` is no list of documents.
        ValueError: If a message holds something else than text.
    """
    if not messages:
        msg = "there are no messages to answer; pass at least one"
        raise EmptyInputError(msg)
    blocks = [list(_text_blocks(message)) for message in messages]
    texts = ["".join(text for text, _ in message_blocks) for message_blocks in blocks]
    asking = _index_of_question(messages)
    if not texts[asking].strip():
        msg = "the question is empty; the last human message must hold text"
        raise EmptyInputError(msg)
    given = document_stores(documents, resolver)
    turns: list[Message] = []
    warnings: list[str] = []
    for index, message in enumerate(messages):
        attached = _documents_or_none(message.additional_kwargs.get("documents"), resolver)
        artifact = _documents_or_none(getattr(message, "artifact", None), resolver)
        parts = _passages_before(texts[index], attached, resolver)
        if index == asking:
            parts += _passages_before("\n".join(texts), given, resolver)
        for text, key in blocks[index]:
            resolved = _resolve_block(text, key, {**artifact, **attached, **given}, resolver)
            parts += resolved.parts
            warnings += resolved.warnings
        turns.append(_turn(message, tuple(parts)))
    question = "".join(part.text for part in turns[asking].parts if isinstance(part, TextPart))
    question = question.strip() or texts[asking].strip()  # the question may be a passage itself
    return Conversation(tuple(turns), question, tuple(warnings))


def _turn(message: BaseMessage, parts: tuple[Part, ...]) -> Message:
    """A message with its content taken apart."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    tool = message.name if isinstance(message, (FunctionMessage, ToolMessage)) else None
    called = tuple(ToolCall(call["name"], call["args"]) for call in calls)
    return Message(_role(message), parts, called, tool)


def _passages_before(
    text: str, documents: Mapping[str, ChunkStore | None], resolver: Resolver
) -> list[Part]:
    """Lays out the documents that do not stand in a text, each followed by a blank line."""
    parts: list[Part] = []
    for document, store in documents.items():
        passage = document.strip()
        if passage and passage not in text:
            parts += [*resolver.passage_parts(passage, store), TextPart("\n\n")]
    return parts


def _resolve_block(
    text: str, key: object, documents: Mapping[str, ChunkStore | None], resolver: Resolver
) -> Resolved:
    if key is None:
        return resolver.resolve_text(text, documents)
    if resolver.is_key_of(key, text):
        return Resolved(resolver.passage_parts(text))
    resolved = resolver.resolve_text(text, documents)
    warning = "the key of a text block does not belong to its text for this model; it was ignored"
    return Resolved(resolved.parts, (*resolved.warnings, warning))


def _text_blocks(message: BaseMessage) -> Iterator[tuple[str, object]]:
    """Each text of a message with the key that it claims; None without a claim."""
    content = [message.content] if isinstance(message.content, str) else message.content
    for block in content:
        if isinstance(block, str):
            yield block, None
        elif block.get("type") == "text":
            claim = (block.get("extras") or {}).get("refrag")
            yield block["text"], claim.get("key", "") if isinstance(claim, Mapping) else None
        elif not isinstance(message, AIMessage):  # those also hold tool calls and reasoning
            msg = f"a {message.type} message holds a {block.get('type')!r} block; only text is read"
            raise ValueError(msg)


def _documents_or_none(documents: object, resolver: Resolver) -> dict[str, ChunkStore | None]:
    """Documents where messages carry them; artifacts of other tools are none of our business."""
    try:
        return document_stores(documents, resolver)
    except TypeError:
        return {}


def _index_of_question(messages: Sequence[BaseMessage]) -> int:
    human = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return human[-1] if human else len(messages) - 1


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
