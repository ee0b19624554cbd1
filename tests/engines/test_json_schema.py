"""Whatever a decoder would write freely, its answer parses and fits the schema."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.json_schema import AnswerSchema, check_complete
from refrag_components.engines.layout import Layout
from refrag_components.exceptions import StructuredOutputError
from refrag_components.modeling import RefragModel
from tests.engines.layouts import segment, text_segment
from tests.tiny import TEXT, save_tiny_decoder, tiny_config, tiny_decoder_config


class Kind(Enum):
    HARBOUR = "harbour"
    TOWN = "town \N{SNOWMAN}"


class Digging(BaseModel):
    """When something was dug."""

    year: int = Field(ge=0, le=2100)
    by: str = Field(max_length=12)
    deep: float | None = Field(ge=0, le=1)
    kinds: list[Kind] = Field(max_length=3)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    loud: bool


class Home(BaseModel):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]


class Nest(BaseModel):
    """Holds others."""

    inner: list[Nest] = Field(max_length=2)
    last: bool


SCHEMAS: dict[str, dict[str, Any]] = {
    "all kinds of fields": Digging.model_json_schema(),
    "union": Home.model_json_schema(),
    "no fields": {"type": "object", "properties": {}},
    "list": {"type": "array", "items": {"enum": ["a", "b", 3]}, "minItems": 2, "maxItems": 4},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,5}$"},
    "both": {
        "allOf": [
            {"properties": {"a": {"type": "integer", "minimum": 1, "maximum": 9}}},
            {"properties": {"b": {"type": "boolean"}}},
        ],
        "type": "object",
        "required": ["a", "b"],
        "maxProperties": 2,
    },
    "either": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def engine(tiny_model: RefragModel) -> TransformersEngine:
    return TransformersEngine(tiny_model)


@pytest.fixture(scope="module")
def layout(tiny_model: RefragModel) -> Layout:
    ask = partial(text_segment, tiny_model)
    return Layout((ask("Read this: "), segment(tiny_model, TEXT[0], 0.5), ask(" As JSON:")))


def params(schema: dict[str, Any], **others: Any) -> SamplingParams:
    settings = {"max_tokens": 300, "answer_schema": AnswerSchema.of(schema)}
    return SamplingParams(**settings | others)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_fits(
    engine: TransformersEngine, layout: Layout, name: str, temperature: float
) -> None:
    sampling = params(SCHEMAS[name], temperature=temperature, top_p=0.9, top_k=20, seed=3)
    for answer in engine.generate([layout] * 4, sampling):
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), SCHEMAS[name])


def test_recursion_ends_or_is_reported(engine: TransformersEngine, layout: Layout) -> None:
    for answer in engine.generate([layout] * 8, params(Nest.model_json_schema(), temperature=1.0)):
        try:
            check_complete(answer.text, answer.finish_reason)
        except StructuredOutputError:
            assert answer.finish_reason == "length"
        else:
            Nest.model_validate_json(answer.text)


def test_a_stream_is_the_same_answer(engine: TransformersEngine, layout: Layout) -> None:
    sampling = params(SCHEMAS["all kinds of fields"], temperature=1.0, seed=5)
    (whole,) = engine.generate([layout], sampling)
    assert "".join(delta.text for delta in engine.stream(layout, sampling)) == whole.text


def test_rows_without_a_schema_are_left_alone(engine: TransformersEngine, layout: Layout) -> None:
    free = SamplingParams(max_tokens=12)
    (alone,) = engine.generate([layout], free)
    together = engine.generate([layout] * 3, [params(SCHEMAS["union"]), free, free])
    Home.model_validate_json(together[0].text)
    assert [answer.text for answer in together[1:]] == [alone.text] * 2


def test_stop_strings_do_not_cut_it(engine: TransformersEngine, layout: Layout) -> None:
    sampling = params(SCHEMAS["all kinds of fields"], stop=('"', "}", "1"))
    (answer,) = engine.generate([layout], sampling)
    Digging.model_validate_json(answer.text)


def test_what_the_prompt_begins_is_continued(engine: TransformersEngine, layout: Layout) -> None:
    prefix = '{"year": 19'
    schema = AnswerSchema.of(SCHEMAS["all kinds of fields"], prefix=prefix)
    for answer in engine.generate(
        [layout] * 4, SamplingParams(answer_schema=schema, temperature=1.0, seed=1)
    ):
        assert str(Digging.model_validate_json(prefix + answer.text).year).startswith("19")
    wrong = replace(schema, prefix='{"month": ')
    with pytest.raises(StructuredOutputError, match="cannot be made to fit its JSON schema"):
        engine.generate([layout], SamplingParams(answer_schema=wrong))


@pytest.mark.parametrize("max_tokens", [1, 5, 20])
def test_half_of_an_answer_is_refused(
    engine: TransformersEngine, layout: Layout, max_tokens: int
) -> None:
    sampling = params(SCHEMAS["all kinds of fields"], max_tokens=max_tokens)
    (answer,) = engine.generate([layout], sampling)
    assert answer.finish_reason == "length"
    with pytest.raises(StructuredOutputError, match="raise max_tokens"):
        check_complete(answer.text, answer.finish_reason)


def test_an_answer_that_just_fits_is_not_refused() -> None:
    check_complete('{"a": 1}', "length")
    check_complete("", "stop")


def test_no_fields_except_those_named(engine: TransformersEngine, layout: Layout) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "boolean"}}}},
    }
    for answer in engine.generate([layout] * 8, params(schema, temperature=5.0, seed=2)):
        found = json.loads(answer.text)
        assert set(found) <= {"a"}
        assert set(found.get("a", {})) <= {"b"}


def test_a_decoder_with_more_rows_than_tokens(tiny_base: tuple[Path, Path], tmp_path: Path) -> None:
    folder = save_tiny_decoder(tmp_path / "decoder", tiny_decoder_config(vocab_size=512))
    config = tiny_config(folder, tiny_base[1])
    model = RefragModel.from_base(config)
    layout = Layout((text_segment(model, "As JSON:"),))
    sampling = params(SCHEMAS["union"], temperature=5.0, seed=1)
    for answer in TransformersEngine(model).generate([layout] * 4, sampling):
        Home.model_validate_json(answer.text)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "foo"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "nsatisfiable|minimum"),
    ],
)
def test_what_cannot_be_enforced_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(StructuredOutputError, match=reason) as raised:
        AnswerSchema.of(schema)
    assert "change the schema" in str(raised.value)
