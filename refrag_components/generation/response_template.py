"""Answers as the response template of a tokenizer takes them apart (newer transformers 5.x).

Such a template says how its decoder writes thoughts, text and tool calls, in whatever form; where
there is none, ``refrag_components.prompts.tool_calls`` reads the calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refrag_components.prompts.parts import ToolCall
from refrag_components.prompts.tool_calls import BrokenToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Piece", "ResponseReader", "Thought", "has_response_template"]

_CALLS = "tool_calls"
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking"})


@dataclass(frozen=True)
class Thought:
    """A stretch of what a decoder writes for itself before it answers."""

    text: str


#: A part of an answer: text, a thought, a call, or what looks like one and cannot be read.
Piece = str | Thought | ToolCall | BrokenToolCall


def has_response_template(tokenizer: PreTrainedTokenizerBase, *, calls: bool) -> bool:
    """Whether a tokenizer says how answers are taken apart.

    Earlier releases of transformers know another kind of template, which cannot be read in pieces
    and which later ones drop; it does not count.

    Args:
        tokenizer: The decoder's.
        calls: Whether tool calls have to be among the parts.
    """
    template = getattr(tokenizer, "response_template", None)
    if not template or not hasattr(tokenizer, "get_response_parser"):
        return False
    return not calls or _CALLS in template["fields"]


class ResponseReader:
    """Takes an answer apart while it is generated, as ``ToolCallParser`` does.

    White space around a text belongs to what is next to it. After something that cannot be read,
    all else is text.

    Args:
        tokenizer: The decoder's, with a response template.
        prompt: What the chat template wrote into the prompt; it may have begun the answer.
        tools: JSON schemas of the tools, by which arguments get their types.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> None:
        schemas: Any = list(tools)
        self._parser: Any = tokenizer.get_response_parser(prefix=prompt, tools=schemas)
        self._failed = False
        self._body = ""  # of the part that is open, as it was generated
        for event in self._parser.initial_events:
            list(self._read(event))  # of the prompt nothing is told again

    def push(self, text: str) -> list[Piece]:
        """Takes the next piece of the answer; returns what is certain by now, in order."""
        found: list[Piece] = []
        # One by one: what the parser found before an error in the same piece would be lost.
        for at, character in enumerate(text):
            if self._failed:
                return [*found, text[at:]]
            try:
                for event in self._parser.feed(character):
                    found += self._read(event)
            except ValueError as error:
                found += self._broken(error)
        return _joined(found)

    def finish(self) -> list[Piece]:
        """Returns what is left at the end of the answer."""
        if self._failed:
            return []
        try:
            _, events = self._parser.finalize()
        except ValueError as error:
            return self._broken(error)
        return _joined([piece for event in events for piece in self._read(event)])

    def _broken(self, error: ValueError) -> list[Piece]:
        self._failed = True
        return [BrokenToolCall(None, self._body, str(error))] if self._body else []

    def _read(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        field = event["field"]
        if event["type"] == "region_open":
            self._body = ""
        elif event["type"] == "region_chunk":
            before = self._body
            self._body += event["text"]
            if not event["dirty"]:
                # Of the text so far without its outer white space, what is new.
                known, whole = before.strip(), self._body.strip()
                yield from _text(field, whole[len(known) :])
        else:
            body, self._body = self._body, ""
            if field == _CALLS:
                value = event["value"]
                for call in value if isinstance(value, list) else [value]:
                    yield _call(call, body)


def _text(field: str, text: str) -> Iterator[Piece]:
    if text and field in _THOUGHTS:
        yield Thought(text)
    elif text and field == "content":
        yield text


def _call(value: Any, body: str) -> ToolCall | BrokenToolCall:
    function = value.get("function", value) if isinstance(value, Mapping) else {}
    name, arguments = function.get("name"), function.get("arguments", {})
    if isinstance(name, str) and isinstance(arguments, Mapping):
        return ToolCall(name, arguments)
    known = name if isinstance(name, str) else None
    return BrokenToolCall(known, body, "a tool call must have a name and arguments")


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        elif isinstance(piece, Thought) and isinstance(last, Thought):
            joined[-1] = Thought(last.text + piece.text)
        else:
            joined.append(piece)
    return joined
