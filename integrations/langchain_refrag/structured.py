"""Answers that are JSON."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

__all__ = ["parse_json_answers"]


def parse_json_answers(
    model: BaseChatModel, schema: dict[str, Any] | type, *, include_raw: bool
) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
    """Parses the JSON that a prompt asks for.

    Args:
        model: Answers.
        schema: A pydantic class, which is instantiated, or a JSON schema or typed dict, which only
            appears in traces.
        include_raw: Whether to return a dict of "raw", "parsed" and "parsing_error" instead.
    """
    schema_of_trace = {"kwargs": {"method": "json_mode"}, "schema": convert_to_json_schema(schema)}
    answering = model.bind(ls_structured_output_format=schema_of_trace)
    parser: Any = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        return answering | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    both = parsed.with_fallbacks([failed], exception_key="parsing_error")
    return RunnableMap(raw=answering) | both
