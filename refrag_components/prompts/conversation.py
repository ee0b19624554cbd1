"""Messages of any framework to the messages of the prompt, with passages and question found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.matching import PlainText
from refrag_components.prompts.parts import Message, Part, PassagePart, TextPart, ToolCall
from refrag_components.prompts.resolver import Resolved, Resolver
from refrag_components.prompts.unrecognised import (
    sightings,
    tell_sightings,
    why_unrecognised,
)

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

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

logger = logging.getLogger(__name__)

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
        literal: Whether its text is read as tokens, whatever passages it holds.
    """

    role: str
    blocks: Sequence[Block]
    attached: Documents = field(default_factory=dict)
    mentioned: Documents = field(default_factory=dict)
    calls: tuple[ToolCall, ...] = ()
    tool: str | None = None
    literal: bool = False

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(block.text for block in self.blocks)


@dataclass(frozen=True)
class Conversation:
    """Messages that are ready for the chat template.

    Attributes:
        messages: The turns, in order.
        question: What the user asks: the ordinary text of the last user message, or the query in
            it if passages stand next to it, so that the rest is a template.
        warnings: About texts that claimed to be a passage and could not be resolved, and about
            passages that were retrieved and are not found.
    """

    messages: tuple[Message, ...]
    question: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ResolvedPrompt:
    """A prompt that is continued as it is.

    Attributes:
        parts: Text and passages, in order.
        question: What it asks: its ordinary text, or the query in it if it holds passages.
        warnings: As for ``Conversation``.
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
    are one passage, in envelopes, and as text that a retriever returned. Documents are compressed
    where their text occurs. Those whose text does not occur are put before the last user message
    or, if they are attached to a message, before that message. What the last user message asks is
    never compressed: see ``Resolver.resolve_asking``.

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
    asking = turns[question_index]
    if not asking.text.strip():
        msg = "the question is empty; the last user message must hold text"
        raise EmptyInputError(msg)
    everything = "\n".join(turn.text for turn in turns)
    resolver = resolver.for_prompt(everything)
    resolved = {
        index: (
            [Resolved((TextPart(turn.text),))]
            if turn.literal
            else [_resolve_block(block, _known(turn, documents), resolver) for block in turn.blocks]
        )
        for index, turn in enumerate(turns)
        if index != question_index
    }
    elsewhere = _passages(block for blocks in resolved.values() for block in blocks)
    if len(resolver.passages_in(asking.text, _known(asking, documents))) > 1:
        elsewhere = set()  # that is a context again, not a passage which is quoted
    resolved[question_index] = _resolve_asking(
        asking.blocks, _known(asking, documents), resolver, elsewhere
    )
    messages: list[Message] = []
    warnings: list[str] = []
    for index, turn in enumerate(turns):
        parts = _passages_before(turn.text, turn.attached, resolver)
        if index == question_index:
            parts += _passages_before(everything, documents, resolver)
        for block in resolved[index]:
            parts += block.parts
            warnings += block.warnings
        messages.append(Message(turn.role, tuple(parts), turn.calls, turn.tool))
    asked = [part for block in resolved[question_index] for part in block.parts]
    warnings += _unrecognised([p for m in messages for p in m.parts], everything, resolver)
    return Conversation(tuple(messages), _question(asked, asking.text, resolver), tuple(warnings))


def resolve_prompt(prompt: str, documents: Documents, resolver: Resolver) -> ResolvedPrompt:
    """Resolves the passages in a prompt that is continued as it is.

    Documents whose text it does not contain are put first. What it asks is not compressed, as in
    the last user message of a conversation.

    Raises:
        EmptyInputError: If the prompt is blank.
    """
    if not prompt.strip():
        msg = "the prompt is empty; pass some text"
        raise EmptyInputError(msg)
    resolver = resolver.for_prompt(prompt)
    (resolved,) = _resolve_asking([Block(prompt)], documents, resolver, set())
    parts = (*_passages_before(prompt, documents, resolver), *resolved.parts)
    warnings = (*resolved.warnings, *_unrecognised(parts, prompt, resolver))
    return ResolvedPrompt(parts, _question(resolved.parts, prompt, resolver), warnings)


def _known(turn: Turn, documents: Documents) -> Documents:
    return {**turn.mentioned, **turn.attached, **documents}


def _passages_before(text: str, documents: Documents, resolver: Resolver) -> list[Part]:
    """Lays out the documents that a text does not contain, each followed by a blank line."""
    if not documents:
        return []
    plain = PlainText(text)
    parts: list[Part] = []
    missing = {
        passage: store
        for document, store in documents.items()
        if (passage := document.strip()) and not plain.holds(passage)
    }
    for passage, store in missing.items():
        parts += [*resolver.passage_parts(passage, store), TextPart("\n\n")]
    return parts


def _resolve_block(block: Block, documents: Documents, resolver: Resolver) -> Resolved:
    marked = _resolve_marked(block, resolver)
    return marked or _with_warning(block, resolver.resolve_text(block.text, documents))


def _resolve_asking(
    blocks: Sequence[Block], documents: Documents, resolver: Resolver, elsewhere: set[str]
) -> list[Resolved]:
    """The blocks of the message that asks; some ordinary words always remain if there are any."""
    marked = [_resolve_marked(block, resolver) for block in blocks]
    elsewhere |= _passages(filter(None, marked))
    resolved = [
        known or resolver.resolve_asking(block.text, documents, elsewhere)
        for block, known in zip(blocks, marked, strict=True)
    ]
    if not any(character.isalnum() for each in resolved for character in _ordinary(each.parts)):
        resolved = [
            known or resolver.resolve_envelopes(block.text)
            for block, known in zip(blocks, marked, strict=True)
        ]
    return [
        each if known else _with_warning(block, each)
        for block, known, each in zip(blocks, marked, resolved, strict=True)
    ]


def _resolve_marked(block: Block, resolver: Resolver) -> Resolved | None:
    if block.is_passage or resolver.is_key_of(block.key, block.text):
        return Resolved(resolver.passage_parts(block.text))
    return None


def _with_warning(block: Block, resolved: Resolved) -> Resolved:
    if block.key is None:
        return resolved
    warning = "the key of a text block does not belong to its text for this model; it was ignored"
    return Resolved(resolved.parts, (*resolved.warnings, warning))


def _unrecognised(parts: Sequence[Part], prompt: str, resolver: Resolver) -> list[str]:
    """A warning if the request retrieved passages and none of them is found in its prompt."""
    passages = [passage for each in resolver.retrieved for passage in each.passages]
    if logger.isEnabledFor(logging.DEBUG):  # `refrag doctor` listens
        logger.debug(tell_sightings(sightings(passages, prompt)))
    if any(isinstance(part, PassagePart) for part in parts) or resolver.find_retrieved(prompt):
        return []
    why = why_unrecognised(passages, prompt)
    return [] if why is None else [why]


def _question(parts: Sequence[Part], text: str, resolver: Resolver) -> str:
    """The ordinary text; if there is none, the question is about a passage itself."""
    ordinary = _ordinary(parts).strip()
    if any(isinstance(part, PassagePart) for part in parts):
        return resolver.query_in(ordinary) or ordinary or text.strip()
    return ordinary


def _passages(resolved: Iterable[Resolved]) -> set[str]:
    return {part.text for each in resolved for part in each.parts if isinstance(part, PassagePart)}


def _ordinary(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if not isinstance(part, PassagePart))
