"""Messages to prompt parts, by the chat template of the decoder's tokenizer."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from refrag_components.exceptions import EmptyInputError, RefragError
from refrag_components.prompts.parts import ControlPart, Message, Part, RenderedPart, TextPart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["render"]

_BLANK_LINE = "\n\n"


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
) -> list[RenderedPart]:
    """Lays messages out with the tokenizer's own chat template.

    The template never sees the content: an unguessable word stands for each part and is replaced
    afterwards, so content cannot forge control tokens and passages keep their boundaries. White
    space around a message does pass through the template, which may strip it.

    A template that leaves tool calls out is given them again as text. One that refuses the roles
    is given the messages with every turn except the assistant's as a user turn and neighbours of
    the same role merged. A tokenizer without a template gets one "role: text" line per message.

    Args:
        messages: The conversation, at least one message.
        tokenizer: The decoder's tokenizer.
        tools: JSON schemas of the tools that may be called, in OpenAI's form. Not every template
            prints them: see ``refrag_components.prompts.tool_calls.tool_call_style``.
        add_generation_prompt: End with the opening of the assistant's turn.

    Raises:
        EmptyInputError: If there are no messages.
        RefragError: If the template refuses the messages or leaves a part out.
    """
    if not messages:
        msg = "there are no messages to answer; pass at least one"
        raise EmptyInputError(msg)
    if not tokenizer.chat_template:
        spelled = _spell_tool_calls(messages)
        return _without_template(spelled, add_generation_prompt=add_generation_prompt)
    # A template is a program that somebody else wrote, which may raise anything.
    try:
        return _with_template(messages, tokenizer, tools, add_generation_prompt)
    except Exception:
        spelled = _spell_tool_calls(messages)
    if any(message.tool_calls for message in messages):
        try:
            return _with_template(spelled, tokenizer, tools, add_generation_prompt)
        except Exception:
            pass  # the tool calls were not the reason
    try:
        return _with_template(_fold_roles(spelled), tokenizer, tools, add_generation_prompt)
    except Exception as error:
        roles = [message.role for message in messages]
        reason = str(error) or type(error).__name__
        msg = f"the tokenizer's chat template cannot lay out the roles {roles}: {reason}"
        raise RefragError(msg) from error


class _PartLostError(ValueError):
    """The template left out a message or changed its text."""


class _Placeholders:
    """Unguessable words that stand for content while the template lays it out.

    Args:
        tokenizer: Says which texts are control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.values()
        self._control = {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
        self._secret = secrets.token_hex(16)
        self._parts: list[Part] = []
        self._needed: set[int] = set()

    def stand_in(self, part: Part) -> str:
        """The word for a part that the template must print."""
        self._needed.add(len(self._parts))
        return self._word(part)

    def shield(self, value: Any) -> Any:
        """A JSON value with words in place of strings that spell out control tokens.

        The other strings stay, because templates look at some of them ("object", "required").
        """
        if isinstance(value, str):
            forged = any(token in value for token in self._control)
            return self._word(_json_text(value)) if forged else value
        if isinstance(value, Mapping):
            return {self.shield(key): self.shield(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.shield(item) for item in value]
        return value

    def fill(self, text: str) -> list[RenderedPart]:
        """Puts the parts back in place of their words.

        Raises:
            _PartLostError: If a part is missing.
        """
        split = re.split(f"x{self._secret}n([0-9]+)x", text)  # control text and numbers alternate
        if lost := self._needed - {int(number) for number in split[1::2]}:
            msg = f"{len(lost)} of {len(self._needed)} message parts do not appear in its output"
            raise _PartLostError(msg)
        rendered: list[RenderedPart] = []
        for i, control_or_number in enumerate(split):
            if i % 2:
                rendered.append(self._parts[int(control_or_number)])
            elif control_or_number:
                rendered.append(ControlPart(control_or_number))
        return rendered

    def _word(self, part: Part) -> str:
        self._parts.append(part)
        return f"x{self._secret}n{len(self._parts) - 1}x"


def _with_template(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
) -> list[RenderedPart]:
    placeholders = _Placeholders(tokenizer)
    text: Any = tokenizer.apply_chat_template(
        [_turn(message, placeholders) for message in messages],
        tools=placeholders.shield(tools) or None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    return placeholders.fill(text)


def _turn(message: Message, placeholders: _Placeholders) -> dict[str, Any]:
    """A message as chat templates expect it."""
    lead, body, tail = _outer_space(message.parts)
    content = lead + "".join(placeholders.stand_in(part) for part in body) + tail
    turn: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool is not None:
        turn["name"] = placeholders.shield(message.tool)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "function": {
                    "name": placeholders.stand_in(_json_text(call.name)),
                    "arguments": placeholders.shield(call.arguments),
                },
            }
            for call in message.tool_calls
        ]
    return turn


def _json_text(text: str) -> TextPart:
    """A string as JSON writes it between quotation marks."""
    return TextPart(json.dumps(text, ensure_ascii=False)[1:-1])


def _outer_space(parts: Sequence[Part]) -> tuple[str, list[Part], str]:
    """Takes the white space at a message's ends off its parts."""
    body = [part for part in parts if part.text]
    lead = tail = ""
    if body and isinstance(first := body[0], TextPart):
        stripped = first.text.lstrip()
        lead, body[0] = first.text[: len(first.text) - len(stripped)], TextPart(stripped)
    if body and isinstance(last := body[-1], TextPart):
        stripped = last.text.rstrip()
        tail, body[-1] = last.text[len(stripped) :], TextPart(stripped)
    return lead, [part for part in body if part.text], tail


def _spell_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """Writes tool calls into the text of their messages."""
    spelled: list[Message] = []
    for message in messages:
        parts = list(message.parts)
        for call in message.tool_calls:
            parts += [TextPart("\n")] if parts else []
            parts.append(TextPart(call.to_json()))
        spelled.append(Message(message.role, tuple(parts), tool=message.tool))
    return spelled


def _fold_roles(messages: Sequence[Message]) -> list[Message]:
    folded: list[Message] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if folded and folded[-1].role == role:
            parts = (*folded[-1].parts, TextPart(_BLANK_LINE), *message.parts)
            folded[-1] = Message(role, parts)
        else:
            folded.append(Message(role, message.parts))
    return folded


def _without_template(
    messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[RenderedPart]:
    # Role names are plain text here, so the prompt is treated as a raw prompt and gets a BOS.
    rendered: list[RenderedPart] = []
    for message in messages:
        rendered += [TextPart(f"{message.role}: "), *message.parts, TextPart("\n")]
    if add_generation_prompt:
        rendered.append(TextPart("assistant:"))
    return rendered
