"""Messages of any framework to the messages of the prompt, with passages and question found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.parts import Message, Part, PassagePart, TextPart, ToolCall
from refrag_components.prompts.resolver import Resolved, Resolver

if TYPE_CHECKING:
    from refrag_components.stores.base import ChunkStore

__all__ = [
    "Block",
    "Conversation",
    "Documents",
    "ResolvedPrompt",
    "Turn",
    "read_documents",
    "resolve_prompt",
    "resolve_turns",
]

#: Texts that are passages, each with the store of its chunk vectors if it brings one.
Documents = Mapping[str, "ChunkStore | None"]


@dataclass(frozen=True)
class Block:
    """A stretch of a message's text.

    Attributes:
        text: The characters; those of a message's blocks are joined with nothing between them.
        key: The key by which it claims to be a passage; None without a claim.
        is_passage: Whether it is one whole passage.
    """

    text: str
    key: object = None
    is_passage: bool = False


@dataclass(frozen=True)
class Turn:
    """A message as a framework hands it over.

    Attributes:
        role: As the chat template names it: "user" asks.
        blocks: Its text, in order.
        attached: Its passages, put before it unless its text contains them.
        mentioned: Its passages, compressed where its text contains them.
        calls: Tool calls, for an assistant.
        tool: Name of the tool that answers.
    """

    role: str
    blocks: Sequence[Block]
    attached: Documents = field(default_factory=dict)
    mentioned: Documents = field(default_factory=dict)
    calls: tuple[ToolCall, ...] = ()
    tool: str | None = None

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(block.text for block in self.blocks)


@dataclass(frozen=True)
class Conversation:
    """Messages that are ready for the chat template.

    Attributes:
        messages: The turns, in order.
        question: What the user asks: the ordinary text of the last user message.
        warnings: About texts that claimed to be a passage and could not be resolved.
    """

    messages: tuple[Message, ...]
    question: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ResolvedPrompt:
    """A prompt that is continued as it is.

    Attributes:
        parts: Text and passages, in order.
        question: What it asks: its ordinary text.
        warnings: About texts that claimed to be a passage and could not be resolved.
    """

    parts: tuple[Part, ...]
    question: str
    warnings: tuple[str, ...]


def read_documents(
    documents: object, read: Callable[[object], tuple[str, ChunkStore | None]]
) -> dict[str, ChunkStore | None]:
    """Reads documents in any of the forms in which a framework hands them over.

    Args:
        documents: A list or tuple; None for no documents.
        read: The text of one document, and the store of its chunk vectors if it carries them.

    Raises:
        TypeError: If it is something else, or ``read`` raises it.
    """
    if documents is None:
        return {}
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        msg = (
            "documents must be a list of documents, nodes or strings, "
            f"got {type(documents).__name__}"
        )
        raise TypeError(msg)
    return dict(map(read, documents))


def resolve_turns(turns: Sequence[Turn], documents: Documents, resolver: Resolver) -> Conversation:
    """Resolves the passages in messages.

    Passages come as ``documents``, as documents of a message, as blocks with a key, as blocks that
    are one passage, in envelopes, and as text that a retriever registered. Documents are compressed
    where their text occurs. Those whose text does not occur are put before the last user message
    or, if they are attached to a message, before that message.

    Args:
        turns: What the model received.
        documents: Passages of the call.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If there is no message or the last user message is blank.
    """
    if not turns:
        msg = "there are no messages to answer; pass at least one"
        raise EmptyInputError(msg)
    question_index = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    question_index %= len(turns)  # without a user message the last turn asks
    if not turns[question_index].text.strip():
        msg = "the question is empty; the last user message must hold text"
        raise EmptyInputError(msg)
    everything = "\n".join(turn.text for turn in turns)
    messages: list[Message] = []
    warnings: list[str] = []
    for index, turn in enumerate(turns):
        parts = _passages_before(turn.text, turn.attached, resolver)
        if index == question_index:
            parts += _passages_before(everything, documents, resolver)
        known = {**turn.mentioned, **turn.attached, **documents}
        for block in turn.blocks:
            resolved = _resolve_block(block, known, resolver)
            parts += resolved.parts
            warnings += resolved.warnings
        messages.append(Message(turn.role, tuple(parts), turn.calls, turn.tool))
    question = _question(messages[question_index].parts, turns[question_index].text)
    return Conversation(tuple(messages), question, tuple(warnings))


def resolve_prompt(prompt: str, documents: Documents, resolver: Resolver) -> ResolvedPrompt:
    """Resolves the passages in a prompt that is continued as it is.

    Documents whose text it does not contain are put first.

    Raises:
        EmptyInputError: If the prompt is blank.
    """
    if not prompt.strip():
        msg = "the prompt is empty; pass some text"
        raise EmptyInputError(msg)
    resolved = resolver.resolve_text(prompt, documents)
    parts = (*_passages_before(prompt, documents, resolver), *resolved.parts)
    return ResolvedPrompt(parts, _question(resolved.parts, prompt), resolved.warnings)


def _passages_before(text: str, documents: Documents, resolver: Resolver) -> list[Part]:
    """Lays out the documents that a text does not contain, each followed by a blank line."""
    parts: list[Part] = []
    missing = {
        passage: store
        for document, store in documents.items()
        if (passage := document.strip()) and passage not in text
    }
    for passage, store in missing.items():
        parts += [*resolver.passage_parts(passage, store), TextPart("\n\n")]
    return parts


def _resolve_block(block: Block, documents: Documents, resolver: Resolver) -> Resolved:
    if block.is_passage or resolver.is_key_of(block.key, block.text):
        return Resolved(resolver.passage_parts(block.text))
    resolved = resolver.resolve_text(block.text, documents)
    if block.key is None:
        return resolved
    warning = "the key of a text block does not belong to its text for this model; it was ignored"
    return Resolved(resolved.parts, (*resolved.warnings, warning))


def _question(parts: Sequence[Part], text: str) -> str:
    """The ordinary text; if there is none, the question is about a passage itself."""
    ordinary = "".join(part.text for part in parts if not isinstance(part, PassagePart))
    return ordinary.strip() or text.strip()
