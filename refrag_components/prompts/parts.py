"""What prompts are made of: template text, ordinary text and passages, kept apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["ControlPart", "Message", "Part", "PassagePart", "RenderedPart", "TextPart", "ToolCall"]


@dataclass(frozen=True)
class TextPart:
    """Ordinary text; control tokens spelled out in it are read as plain characters."""

    text: str


@dataclass(frozen=True)
class PassagePart:
    """A passage that may enter the decoder as chunk embeddings.

    Attributes:
        text: The passage.
        store: Where its chunk vectors are kept; None for the generator's own store.
    """

    text: str
    store: ChunkStore | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ControlPart:
    """Text written by the chat template; the only text that may hold control tokens."""

    text: str


Part = TextPart | PassagePart
RenderedPart = TextPart | PassagePart | ControlPart


@dataclass(frozen=True)
class ToolCall:
    """A tool that the assistant called.

    Attributes:
        name: The tool's name.
        arguments: What it was called with, as JSON values; anything else is written as text.
    """

    name: str
    arguments: Mapping[str, Any]

    def to_json(self) -> str:
        """The call as JSON text, for decoders that know no other form."""
        call = {"name": self.name, "arguments": dict(self.arguments)}
        return json.dumps(call, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or whatever the chat template knows.
        parts: Text and passages in order.
        tool_calls: Tools that the assistant called in this turn.
        tool: Name of the tool whose result this is.
    """

    role: str
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool: str | None = None
