"""LlamaIndex messages to the messages of the prompt, with the passages in them resolved."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from llama_index.llms.refrag.questions import find_question
from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.parts import Message, Part, PassagePart, TextPart
from refrag_components.prompts.resolver import Resolved, Resolver, document_text

__all__ = ["Conversation", "document_texts", "resolve_messages", "resolve_prompt"]

_ROLES: Mapping[MessageRole, str] = {
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.MODEL: "assistant",
    MessageRole.SYSTEM: "system",
    MessageRole.TOOL: "tool",
    MessageRole.USER: "user",
}

# A list of one string as Python prints it.
_PRINTED_LIST = re.compile(r"\[(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")\]")


@dataclass(frozen=True)
class Conversation:
    """Messages that are ready for the chat template.

    Attributes:
        messages: The turns, in order.
        question: What the user asks: the question in the last user message that passages were
            retrieved for, else all its ordinary text.
        warnings: What claimed to be a passage and could not be resolved.
    """

    messages: tuple[Message, ...]
    question: str
    warnings: tuple[str, ...]


def document_texts(documents: object) -> list[str]:
    """The texts of documents in any of the forms in which LlamaIndex has them.

    Args:
        documents: A list or tuple of nodes, with or without score, strings, or dicts with the
            text; None for no documents.

    Raises:
        TypeError: If it is something else.
    """
    if documents is None:
        return []
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        msg = f"documents must be a list of nodes or strings, got {type(documents).__name__}"
        raise TypeError(msg)
    return [
        document.get_content(metadata_mode=MetadataMode.NONE)
        if isinstance(document, BaseNode | NodeWithScore)
        else document_text(document)
        for document in documents
    ]


def resolve_messages(
    messages: Sequence[ChatMessage], documents: Sequence[str], resolver: Resolver
) -> Conversation:
    """Resolves the passages in messages.

    Passages come as ``documents``, as citable blocks, in envelopes, and as text that a retriever
    or postprocessor registered. Documents are compressed where their text stands; those whose text
    stands nowhere are put before the last user message.

    Args:
        messages: What the LLM received.
        documents: Texts that are known to be passages.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If there is no message or the last user message is blank.
        ValueError: If a message holds something else than text.
    """
    if not messages:
        msg = "there are no messages to answer; pass at least one"
        raise EmptyInputError(msg)
    asking = _index_of_question(messages)
    everything = "\n".join(message.content or "" for message in messages)
    turns: list[Message] = []
    warnings: list[str] = []
    for index, message in enumerate(messages):
        resolved = _resolve_message(message, documents, resolver)
        before = _passages_before(everything, documents, resolver) if index == asking else ()
        turns.append(Message(_ROLES[message.role], (*before, *resolved.parts)))
        warnings += resolved.warnings
    question = _question(turns[asking].parts)
    if not question:
        msg = "the question is empty; the last user message must hold text"
        raise EmptyInputError(msg)
    return Conversation(tuple(turns), question, tuple(warnings))


def resolve_prompt(
    prompt: str, documents: Sequence[str], resolver: Resolver
) -> tuple[Resolved, str]:
    """Resolves the passages in a prompt that is continued as it stands.

    Returns:
        The parts of the prompt, with the documents that do not stand in it first, and what it
        asks, as in ``Conversation``.

    Raises:
        EmptyInputError: If the prompt is blank.
    """
    if not prompt.strip():
        msg = "the prompt is empty; pass some text"
        raise EmptyInputError(msg)
    resolved = _resolve_text(prompt, documents, resolver)
    parts = (*_passages_before(prompt, documents, resolver), *resolved.parts)
    return Resolved(parts, resolved.warnings), _question(resolved.parts)


def _resolve_message(
    message: ChatMessage, documents: Sequence[str], resolver: Resolver
) -> Resolved:
    parts: list[Part] = []
    warnings: list[str] = []
    for block in _readable(message):
        if parts:  # as ChatMessage.content joins its blocks
            parts.append(TextPart("\n"))
        if isinstance(block, TextBlock):
            resolved = _resolve_text(block.text, documents, resolver)
            parts += resolved.parts
            warnings += resolved.warnings
        else:
            parts += _resolve_citable(block, resolver)
    return Resolved(tuple(parts), tuple(warnings))


def _readable(message: ChatMessage) -> Iterator[TextBlock | CitableBlock]:
    for block in message.blocks:
        if isinstance(block, TextBlock | CitableBlock):
            yield block
        elif _ROLES[message.role] != "assistant":  # those also hold tool calls and thoughts
            _refuse(message.role, block)


def _resolve_citable(block: CitableBlock, resolver: Resolver) -> Iterator[Part]:
    yield TextPart(f"{block.title}\n")
    for content in block.content:
        if not isinstance(content, TextBlock):
            _refuse(MessageRole.USER, content)
        else:
            yield from resolver.passage_parts(content.text)


def _refuse(role: MessageRole, block: ContentBlock) -> None:
    msg = f"a {role.value} message holds a {block.block_type!r} block; only text is read"
    raise ValueError(msg)


def _resolve_text(text: str, documents: Sequence[str], resolver: Resolver) -> Resolved:
    known = dict.fromkeys(documents)

    def unprinted(match: re.Match[str]) -> str:
        try:
            body: str = ast.literal_eval(match[0])[0]
        except (SyntaxError, ValueError):
            return match[0]
        parts = resolver.resolve_text(body, known).parts
        return body if any(isinstance(part, PassagePart) for part in parts) else match[0]

    # LlamaIndex' SimpleSummarize prints its context as a Python list, line breaks and quotes
    # escaped. The model is given the text itself, as in every other response mode.
    return resolver.resolve_text(_PRINTED_LIST.sub(unprinted, text), known)


def _passages_before(text: str, documents: Sequence[str], resolver: Resolver) -> Iterator[Part]:
    """Lays out the documents that do not stand in a text, each followed by a blank line."""
    for passage in dict.fromkeys(document.strip() for document in documents):
        if passage and passage not in text:
            yield from resolver.passage_parts(passage)
            yield TextPart("\n\n")


def _question(parts: Sequence[Part]) -> str:
    text = "".join(part.text for part in parts if isinstance(part, TextPart)).strip()
    everything = "".join(part.text for part in parts).strip()
    return find_question(text) or text or everything  # a passage alone is what is asked about


def _index_of_question(messages: Sequence[ChatMessage]) -> int:
    users = [i for i, message in enumerate(messages) if message.role == MessageRole.USER]
    return users[-1] if users else len(messages) - 1
