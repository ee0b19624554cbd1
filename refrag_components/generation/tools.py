"""Tools between a framework's calls and the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.exceptions import ToolCallingError
from refrag_components.generation.response_template import (
    Piece,
    ResponseReader,
    has_response_template,
)
from refrag_components.prompts.parts import ControlPart, RenderedPart, TextPart
from refrag_components.prompts.tool_calls import ToolCallParser, tool_call_style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AnswerForm", "AnswerParts", "Tools", "calls_tools"]

_ANY = "any"
_CHOICES: Mapping[object, str | None] = {
    None: None,
    False: None,
    "auto": None,
    "none": "none",
    "any": _ANY,
    "required": _ANY,
    True: _ANY,
}


@dataclass(frozen=True)
class Tools:
    """Tools that a call may use.

    Attributes:
        schemas: Their JSON schemas in OpenAI's form.
        choice: "any" for any tool, a tool's name for that tool; None leaves it to the decoder.
    """

    schemas: tuple[Mapping[str, Any], ...] = ()
    choice: str | None = None

    @classmethod
    def of(cls, schemas: Sequence[Mapping[str, Any]], choice: object = None) -> Tools:
        """Reads a choice in any of the forms that frameworks have.

        Args:
            schemas: JSON schemas of the tools in OpenAI's form.
            choice: "auto", "none", "any", "required", a bool, the name of a tool, or OpenAI's dict
                of it.

        Raises:
            ToolCallingError: If the choice does not name a tool, or there is none to choose.
        """
        if remote := [schema for schema in schemas if "function" not in schema]:
            msg = f"only functions can be called here, not {remote[0].get('type')!r}; leave it out"
            raise ToolCallingError(msg)
        names = [schema["function"]["name"] for schema in schemas]
        if isinstance(choice, Mapping):
            choice = choice.get("function", choice).get("name")
        wanted = choice if choice in names else _CHOICES.get(choice, choice)
        if wanted == "none":
            return cls()
        if wanted is not None and not (names and wanted in (_ANY, *names)):
            msg = f"tool_choice={choice!r} is not a bound tool; choose one of {', '.join(names)}"
            raise ToolCallingError(msg if names else "tool_choice needs tools; bind at least one")
        if wanted == _ANY and len(names) == 1:
            wanted = names[0]
        return cls(tuple(schemas), None if wanted is None else str(wanted))

    def refuse_server(self) -> None:
        """Refuses tools where a server answers, which lays out prompts without them.

        Raises:
            ToolCallingError: If there are tools.
        """
        if self.schemas:
            msg = "a server is not told about tools; use a model without base_url for them"
            raise ToolCallingError(msg)

    def form(
        self,
        tokenizer: PreTrainedTokenizerBase,
        schema: AnswerSchema | None = None,
        prompt: str = "",
    ) -> AnswerForm:
        """What an answer looks like, and how it begins if a tool has to be called.

        Args:
            tokenizer: The decoder's.
            schema: JSON that the answer has to be, where no tool is called.
            prompt: What the chat template wrote into the prompt.

        Raises:
            StructuredOutputError: If a tool's schema cannot be enforced.
            ToolCallingError: If the decoder cannot be told about the tools, or there is a schema
                as well.
        """
        if schema is not None and self.schemas:
            msg = (
                "an answer cannot be left to call tools and be kept to a response_format; bind no "
                "tools, or give the format as a tool (create_agent does with ToolStrategy)"
            )
            raise ToolCallingError(msg)
        free = schema is None and self.choice is None
        if free and has_response_template(tokenizer, calls=bool(self.schemas)):
            return AnswerForm(
                lambda: ResponseReader(tokenizer, prompt, self.schemas), skip_special_tokens=False
            )
        if not self.schemas:
            return AnswerForm(schema=schema)
        style = tool_call_style(tokenizer)
        names = [schema["function"]["name"] for schema in self.schemas]
        if self.choice is None:
            return AnswerForm(lambda: ToolCallParser(names))
        begun = style.begin(None if self.choice == _ANY else self.choice)
        begun = begun.removeprefix(style.opening)
        prefix = (ControlPart(style.opening), TextPart(begun))
        chosen = [tool for tool in self.schemas if self.choice in (_ANY, tool["function"]["name"])]
        calls = _calls_schema([tool["function"] for tool in chosen], style.arguments)
        return AnswerForm(
            lambda: ToolCallParser(names),
            tuple(part for part in prefix if part.text),
            AnswerSchema.of(calls, prefix=begun),
        )


def calls_tools(tokenizer: PreTrainedTokenizerBase, *, by_schema: bool = False) -> bool:
    """Whether a decoder can be told about tools and its calls can be read.

    Args:
        tokenizer: The decoder's.
        by_schema: Whether it also has to be possible to demand a call that fits its schema.
    """
    if not by_schema and has_response_template(tokenizer, calls=True):
        return True
    try:
        tool_call_style(tokenizer)
    except ToolCallingError:
        return False
    return True


@dataclass(frozen=True)
class AnswerForm:
    """What an answer to one prompt looks like.

    Attributes:
        make_parser: Makes what finds the calls, and thoughts if it can; None where all is text.
        prefix: The beginning of the answer, to be put at the end of the prompt.
        schema: JSON that the answer has to be; None for free text.
        skip_special_tokens: Whether the parser can do without them.
    """

    make_parser: Callable[[], ToolCallParser | ResponseReader] | None = None
    prefix: tuple[RenderedPart, ...] = ()
    schema: AnswerSchema | None = None
    # What response templates look for are special tokens, as a rule.
    skip_special_tokens: bool = True

    @property
    def begun(self) -> str:
        """The beginning of the JSON, which the prompt already ends with."""
        return "" if self.schema is None else self.schema.prefix


class AnswerParts:
    """Takes one answer apart, whole or delta by delta.

    Args:
        form: What it looks like.
    """

    def __init__(self, form: AnswerForm) -> None:
        self._parser = None if form.make_parser is None else form.make_parser()
        self._pending = "".join(part.text for part in form.prefix)

    def push(self, text: str, *, last: bool) -> list[Piece]:
        """Takes the next delta; returns what is certain by now, and all of it if it is the last."""
        if self._parser is None:
            return [text] if text else []
        found = self._parser.push(self._pending + text)
        self._pending = ""
        return [*found, *self._parser.finish()] if last else [*found]


def _calls_schema(functions: Sequence[Mapping[str, Any]], arguments: str) -> dict[str, Any]:
    """The JSON schema of a call of one of some functions, as chat templates write it."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for function in functions:
        parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
        shared = parameters.pop("$defs", {})  # references to them count from the root
        if clash := [
            name for name in shared if definitions.get(name, shared[name]) != shared[name]
        ]:
            msg = f"two tools define {clash[0]!r} differently in $defs; rename one or choose a tool"
            raise ToolCallingError(msg)
        definitions |= shared
        call = {"name": {"const": function["name"]}, arguments: parameters}
        calls.append({"type": "object", "properties": call, "required": list(call)})
    return {"anyOf": calls, "$defs": definitions}
