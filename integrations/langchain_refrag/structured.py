"""Answers that are JSON: of any kind where the prompt asks for it, or of a schema and no other."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import (
    JsonOutputKeyToolsParser,
    JsonOutputParser,
    PydanticOutputParser,
    PydanticToolsParser,
)
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from refrag_components.engines.json_schema import AnswerSchema, check_complete
from refrag_components.exceptions import StructuredOutputError

__all__ = ["answer_by_schema", "call_by_schema", "parse_json_answers", "requested_schema"]

Schema = dict[str, Any] | type
Structured = Runnable[LanguageModelInput, dict[str, Any] | BaseModel]


def parse_json_answers(model: BaseChatModel, schema: Schema, *, include_raw: bool) -> Structured:
    """Parses the JSON that a prompt asks for.

    Args:
        model: Answers.
        schema: A pydantic class, which is instantiated, or a JSON schema or typed dict, which only
            appears in traces.
        include_raw: Whether to return a dict of "raw", "parsed" and "parsing_error" instead.
    """
    answering = model.bind(ls_structured_output_format=_for_traces("json_mode", schema))
    checked = RunnableGenerator(_not_cut, _anot_cut)
    return _parsed(answering, checked | _json_parser(schema), include_raw)


def answer_by_schema(model: BaseChatModel, schema: Schema, *, include_raw: bool) -> Structured:
    """Lets a model write nothing but JSON of a schema.

    Args:
        model: Answers; takes ``response_format`` with a call.
        schema: A pydantic class, of which instances are made, a JSON schema or a typed dict.
        include_raw: As above.

    Raises:
        StructuredOutputError: If the schema cannot be enforced.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        # LangChain's conversion resolves references, which a recursive class cannot do without.
        json_schema = schema.model_json_schema()
    else:
        json_schema = convert_to_json_schema(schema)
    named = {"name": json_schema.get("title", "answer"), "schema": json_schema}
    response_format = {"type": "json_schema", "json_schema": named}
    requested_schema(response_format)  # now, not with the first call
    answering = model.bind(
        response_format=response_format,
        ls_structured_output_format=_for_traces("json_schema", schema),
    )
    return _parsed(answering, RunnableLambda(_whole) | _json_parser(schema), include_raw)


def call_by_schema(model: BaseChatModel, schema: Schema, *, include_raw: bool) -> Structured:
    """Tells a model of a schema as a tool, and lets it write nothing but a call of that tool.

    Args:
        model: Answers; its decoder calls tools.
        schema: As above.
        include_raw: As above.

    Raises:
        StructuredOutputError: If the schema cannot be enforced.
        ToolCallingError: If the decoder's chat template cannot lay out tools.
    """
    calling = model.bind_tools(
        [schema],
        tool_choice="any",
        ls_structured_output_format=_for_traces("function_calling", schema),
    )
    parser: Any = JsonOutputKeyToolsParser(
        key_name=convert_to_openai_tool(schema)["function"]["name"], first_tool_only=True
    )
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
    return _parsed(calling, RunnableLambda(_whole) | parser, include_raw)


def requested_schema(response_format: object) -> AnswerSchema | None:
    """The schema that the ``response_format`` of a call asks for.

    Args:
        response_format: OpenAI's ``{"type": "json_schema", "json_schema": {"schema": ...}}``, or
            None.

    Raises:
        StructuredOutputError: If it is anything else, or the schema cannot be enforced.
    """
    if response_format is None:
        return None
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            return AnswerSchema.of(schema)
    msg = (
        'response_format must be {"type": "json_schema", "json_schema": {"schema": ...}}, got '
        f"{response_format!r}"
    )
    raise StructuredOutputError(msg)


def _json_parser(schema: Schema) -> Any:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def _for_traces(method: str, schema: Schema) -> dict[str, Any]:
    return {"kwargs": {"method": method}, "schema": convert_to_json_schema(schema)}


def _whole(message: AIMessage) -> AIMessage:
    """The answer; LangChain's parsers would make the best of half of one."""
    if not message.tool_calls:
        check_complete(message.text, message.response_metadata.get("finish_reason"))
    return message


def _not_cut(answer: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """Passes an answer on, whole or streamed, and refuses one that was cut off inside its JSON."""
    whole: Any = None
    for part in answer:
        whole = part if whole is None else whole + part
        yield part
    _check_first_object(whole)


async def _anot_cut(answer: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    whole: Any = None
    async for part in answer:
        whole = part if whole is None else whole + part
        yield part
    _check_first_object(whole)


def _check_first_object(message: AIMessage) -> None:
    start = re.search(r"[\[{]", message.text)
    try:
        json.JSONDecoder().raw_decode(message.text, start.start() if start else 0)
    except ValueError:
        check_complete(message.text, message.response_metadata.get("finish_reason"))


def _parsed(
    answering: Runnable[LanguageModelInput, AIMessage], parser: Any, include_raw: bool
) -> Structured:
    if not include_raw:
        return answering | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    both = parsed.with_fallbacks([failed], exception_key="parsing_error")
    return RunnableMap(raw=answering) | both
