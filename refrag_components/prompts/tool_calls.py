"""Tool calls: how a decoder's chat template writes them, and how they are read in an answer.

Two forms are read: JSON between ``<tool_call>`` and ``</tool_call>``, as many calls as there are,
and an answer that is one bare JSON object. The object has a "name", and its "arguments" (or
"parameters") are in turn an object.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from refrag_components.checking import parse_json
from refrag_components.exceptions import ToolCallingError
from refrag_components.prompts.parts import ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BrokenToolCall", "ToolCallParser", "ToolCallStyle", "tool_call_style"]

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")
_FIX = "use a checkpoint whose decoder calls tools (such as Qwen2.5 or Llama 3.1), or bind no tools"


@dataclass(frozen=True)
class ToolCallStyle:
    """How a chat template writes a tool call.

    Attributes:
        opening: What precedes the JSON object; empty for bare JSON.
        arguments: The key of the arguments: "arguments" or "parameters".
    """

    opening: str
    arguments: str

    def begin(self, name: str | None) -> str:
        """How a call begins: what to put before an answer that has to be a call.

        Args:
            name: The tool to call; None leaves the choice to the decoder.
        """
        start = self.opening + '{"name": "'
        if name is None:
            return start
        return f'{start}{json.dumps(name, ensure_ascii=False)[1:-1]}", "{self.arguments}": '


def tool_call_style(tokenizer: PreTrainedTokenizerBase) -> ToolCallStyle:
    """Finds out how a decoder is told about tools and how it calls them.

    The template is tried out with a tool and a call of it.

    Raises:
        ToolCallingError: If the template does not print tools, or writes calls in a form that is
            not read here.
    """
    name = f"x{secrets.token_hex(16)}x"
    tool = {
        "type": "function",
        "function": {
            "name": name,
            "description": "Says how warm it is.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
    arguments = {"place": "here"}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    question: list[dict[str, Any]] = [{"role": "user", "content": "How warm is it?"}]
    called = [*question, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        told = _laid_out(tokenizer, question, tools=[tool])
        written = _laid_out(tokenizer, called, tools=[tool])
    except (TemplateError, TypeError, ValueError) as error:  # templates are programs
        msg = f"the decoder's chat template cannot lay out tools: {error}; {_FIX}"
        raise ToolCallingError(msg) from error
    if name not in told:
        msg = f"the decoder's chat template has no place for tools; {_FIX}"
        raise ToolCallingError(msg)
    style = _style_of(written, name, arguments)
    if style is None:
        msg = (
            "the decoder's chat template writes tool calls in a form other than JSON, bare or "
            f"between {_OPENING} tags; {_FIX}"
        )
        raise ToolCallingError(msg)
    return style


@dataclass(frozen=True)
class BrokenToolCall:
    """A tool call that cannot be read.

    Attributes:
        name: The tool's name, if that much can be read.
        text: What was generated, with its opening tag.
        error: What is wrong with it.
    """

    name: str | None
    text: str
    error: str


class ToolCallParser:
    """Takes an answer apart while it is generated.

    White space around tool calls belongs to them. An answer fed in several deltas gives the same
    result as one fed at once, except for where the texts are cut.

    Args:
        names: Tools that may be called by bare JSON; any other object is the answer's text.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._waiting = ""
        self._may_be_bare = True
        self._inside = False  # a pair of tags
        self._trim = False  # the white space after a call

    def push(self, text: str) -> list[str | ToolCall | BrokenToolCall]:
        """Takes the next delta of the answer; returns what is certain by now, in order."""
        self._waiting += text
        if self._may_be_bare and self._waiting.lstrip()[:1] in ("", "{"):
            return []
        self._may_be_bare = False
        found: list[str | ToolCall | BrokenToolCall] = []
        while (tag := _CLOSING if self._inside else _OPENING) in self._waiting:
            before, _, self._waiting = self._waiting.partition(tag)
            found += [_read(before)] if self._inside else self._text(before.rstrip())
            self._trim |= self._inside
            self._inside = not self._inside
        if not self._inside:
            certain = _certain_length(self._waiting)
            found += self._text(self._waiting[:certain])
            self._waiting = self._waiting[certain:]
        return found

    def finish(self) -> list[str | ToolCall | BrokenToolCall]:
        """Returns what is left at the end of the answer."""
        rest, self._waiting = self._waiting, ""
        if self._inside:  # the end token may come before the closing tag
            return [_read(rest)]
        return self._bare(rest) if self._may_be_bare else self._text(rest)

    def _bare(self, text: str) -> list[str | ToolCall | BrokenToolCall]:
        stripped = text.lstrip()
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(stripped)
            call = _call(value)
        except ValueError:
            return self._text(text)
        if call.name not in self._names:
            return self._text(text)
        after = stripped[end:].strip()
        return [call, after] if after else [call]

    def _text(self, text: str) -> list[str | ToolCall | BrokenToolCall]:
        if self._trim:
            text = text.lstrip()
        self._trim &= not text
        return [text] if text else []


def _laid_out(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **arguments: Any
) -> str:
    if not tokenizer.chat_template:
        return ""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))


def _style_of(written: str, name: str, arguments: dict[str, str]) -> ToolCallStyle | None:
    start = written.rfind("{", 0, max(written.rfind(name), 0))
    try:
        value, _ = json.JSONDecoder().raw_decode(written[max(start, 0) :])
    except ValueError:
        return None
    keys = [key for key in _ARGUMENTS if value == {"name": name, key: arguments}]
    if not keys:
        return None
    before = written[:start]
    tagged = before.rstrip().endswith(_OPENING)
    return ToolCallStyle(before[before.rindex(_OPENING) :] if tagged else "", keys[0])


def _read(text: str) -> ToolCall | BrokenToolCall:
    """Reads what is between two tags."""
    value: Any = None
    try:
        value = parse_json(text, strict=False)
        return _call(value)
    except ValueError as error:
        name = value.get("name") if isinstance(value, dict) else None
        return BrokenToolCall(
            name if isinstance(name, str) else None, f"{_OPENING}{text}", str(error)
        )


def _call(value: Any) -> ToolCall:
    """The call that a JSON value is.

    Raises:
        ValueError: If it is not a call.
    """
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        msg = 'a tool call must be a JSON object with a "name"'
        raise ValueError(msg)
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):  # some decoders write JSON inside JSON
        arguments = parse_json(arguments, strict=False)
    if not isinstance(arguments, dict):
        msg = f"the arguments of a tool call must be a JSON object, got {arguments!r}"
        raise ValueError(msg)
    return ToolCall(name, arguments)


def _certain_length(text: str) -> int:
    """How many characters cannot belong to a tag still to come or to white space before it."""
    begun = max((n for n in range(len(_OPENING)) if text.endswith(_OPENING[:n])), default=0)
    return len(text[: len(text) - begun].rstrip())
