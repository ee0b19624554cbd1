"""LlamaIndex messages to the messages of the prompt, with the passages in them resolved."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from llama_index.llms.refrag.nodes import carried_stores
from llama_index.llms.refrag.tools import called
from refrag_components.prompts.conversation import (
    Block,
    Conversation,
    Documents,
    ResolvedPrompt,
    Turn,
    read_documents,
    resolve_prompt,
    resolve_turns,
)
from refrag_components.prompts.parts import PassagePart
from refrag_components.prompts.resolver import Resolver, document_text
from refrag_components.stores.common.base import ChunkStore

__all__ = ["Conversation", "resolve_completion", "resolve_messages", "without_media"]

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


def resolve_messages(
    messages: Sequence[ChatMessage], documents: object, resolver: Resolver
) -> Conversation:
    """Resolves the passages in messages, see ``resolve_turns``; citable blocks hold passages.

    Args:
        messages: What the LLM received.
        documents: A list or tuple of nodes, with or without score, strings, or dicts with the
            text; None for no documents.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If there is no message or the last user message is blank.
        TypeError: If ``documents`` is something else.
        ValueError: If a message holds something other than text.
    """
    given = read_documents(documents, partial(_text_and_store, resolver=resolver))
    resolver = resolver.for_prompt("\n".join(message.content or "" for message in messages))
    names: dict[object, str] = {}  # of the tools, by call
    turns: list[Turn] = []
    for message in messages:
        calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
        names |= {call.tool_call_id: call.tool_name for call in calls}
        role = _ROLES[message.role]
        turns.append(
            Turn(
                role,
                list(_blocks(message, given, resolver)),
                calls=tuple(map(called, calls)) if role == "assistant" else (),
                tool=_tool(message, names) if role == "tool" else None,
            )
        )
    return resolve_turns(turns, given, resolver)


def without_media(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[str]]:
    """Copies of messages with nothing but text in those that are not answers, and warnings."""
    kept: list[ChatMessage] = []
    skipped: Counter[str] = Counter()
    for message in messages:
        if _ROLES[message.role] == "assistant":
            kept.append(message)
            continue
        blocks: list[ContentBlock] = []
        for block in message.blocks:
            if isinstance(block, CitableBlock):
                content = [part for part in block.content if isinstance(part, TextBlock)]
                skipped.update(
                    part.block_type for part in block.content if not isinstance(part, TextBlock)
                )
                blocks.append(block.model_copy(update={"content": content}))
            elif isinstance(block, TextBlock):
                blocks.append(block)
            else:
                skipped[block.block_type] += 1
        kept.append(message.model_copy(update={"blocks": blocks}))
    return kept, [
        f"{n} {kind!r} blocks were left out: only text is read" for kind, n in skipped.items()
    ]


def _tool(message: ChatMessage, names: Mapping[object, str]) -> str | None:
    """The tool whose result a message is."""
    name = message.additional_kwargs.get("name")
    return name or names.get(message.additional_kwargs.get("tool_call_id"))


def resolve_completion(prompt: str, documents: object, resolver: Resolver) -> ResolvedPrompt:
    """Resolves the passages in a prompt that is continued as it is.

    Args:
        prompt: The prompt.
        documents: As for ``resolve_messages``; put first if the prompt does not contain them.
        resolver: Finds passages in text.

    Raises:
        EmptyInputError: If the prompt is blank.
        TypeError: If ``documents`` is not a list of documents.
    """
    given = read_documents(documents, partial(_text_and_store, resolver=resolver))
    resolver = resolver.for_prompt(prompt)
    return resolve_prompt(_unprinted(prompt, given, resolver), given, resolver)


def _text_and_store(document: object, *, resolver: Resolver) -> tuple[str, ChunkStore | None]:
    node = document.node if isinstance(document, NodeWithScore) else document
    if not isinstance(node, BaseNode):
        return document_text(document), None
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return text, carried_stores([node]).get(resolver.key_of(text))


def _blocks(message: ChatMessage, documents: Documents, resolver: Resolver) -> Iterator[Block]:
    before = False
    for block in _readable(message):
        if before:  # as ChatMessage.content joins its blocks
            yield Block("\n")
        if isinstance(block, TextBlock):
            yield Block(_unprinted(block.text, documents, resolver))
            before = before or bool(block.text)
        else:
            yield from _passages_of(block)
            before = True


def _readable(message: ChatMessage) -> Iterator[TextBlock | CitableBlock]:
    for block in message.blocks:
        if isinstance(block, TextBlock | CitableBlock):
            yield block
        elif _ROLES[message.role] != "assistant":  # those also hold tool calls and thoughts
            _refuse(message.role, block)


def _passages_of(block: CitableBlock) -> Iterator[Block]:
    yield Block(f"{block.title}\n")
    for content in block.content:
        if not isinstance(content, TextBlock):
            _refuse(MessageRole.USER, content)
        else:
            yield Block(content.text, is_passage=True)


def _refuse(role: MessageRole, block: ContentBlock) -> None:
    msg = (
        f"a {role.value} message holds a {block.block_type!r} block; only text is read. Leave it "
        "out, or make the LLM with skip_media=True"
    )
    raise ValueError(msg)


def _unprinted(text: str, documents: Documents, resolver: Resolver) -> str:
    """The text with lists of one passage replaced by that passage.

    LlamaIndex' SimpleSummarize prints its context as a Python list, line breaks and quotes escaped.
    The model is given the text itself, as in every other response mode.
    """

    def unprinted(match: re.Match[str]) -> str:
        try:
            body: str = ast.literal_eval(match[0])[0]
        except (SyntaxError, ValueError):
            return match[0]
        parts = resolver.resolve_text(body, documents).parts
        return body if any(isinstance(part, PassagePart) for part in parts) else match[0]

    return _PRINTED_LIST.sub(unprinted, text)
