"""Six thousand altered and damaged files: the library's own errors, or values of the right types.

Nothing that a file says makes a library inside raise, and nothing is taken for what it is not.
"""

from __future__ import annotations

import dataclasses
import json
import random
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from refrag_components.corpus.question_files import Question, load_questions
from refrag_components.corpus.tokenised import read_texts
from refrag_components.exceptions import RefragError
from refrag_components.index.folder import Meta
from refrag_components.modeling.config import RefragConfig
from refrag_components.training.recipe import Recipe
from tests.mutations import altered, damaged, json_file

_CASES = 1000  # a kind of file

_META = {
    "format": 1,
    "model": "refrag-smollm2-135m",
    "fingerprint": "f00d",
    "chunk_size": 8,
    "codec": "float16",
    "passage_tokens": 256,
    "store": "postgresql://user@host/database",
    "versions": {"faiss": "1", "numpy": "2"},
}
_CONFIGS: tuple[dict[str, Any], ...] = (
    json.loads(RefragConfig(decoder="a/b", encoder="c/d", folders=("decoder_adapter",)).to_json()),
    json.loads(
        RefragConfig(
            decoder="a",
            encoder="b",
            encoder_layers=2,
            policy_vectors=True,
            token_mlp=0,
            rungs=(8, 16),
        ).to_json()
    ),
)
_TEXT = {"shapes": [{"passages": 2, "tokens": 8, "share": 0.5}], "output_tokens": 4}
_RECIPE = {
    "seed": 3,
    "model": {"decoder": "a", "encoder": "b", "encoder_layers": 2, "token_mlp": 0},
    "continual": {
        "steps": 3,
        "learning_rate": 1e-3,
        "mix": [{"windows": 2, "expanded": [0.0, 0.5], "weight": 0.5}],
        "text": _TEXT,
    },
    "twin": {
        "steps": 3,
        "learning_rate": 1e-3,
        "passages": [1, 2],
        "held_out": ["a.train"],
        "mix": [{"windows": 2}],
        "text": _TEXT,
    },
    "policy": {"steps": 3, "expanded": [0.1], "question_share": 0.5},
}
_QUESTION = {
    "id": "q1",
    "question": "When was it dug?",
    "answers": ["1907"],
    "passages": [{"id": "p0", "title": "Harbour", "text": "Dug in 1907."}],
    "gold": ["p0"],
    "type": "extractive",
    "meta": {"standalone": True, "related": ["p0"]},
}


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value, all the way down, is what its declaration says."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of(value, one) for one in inner)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is tuple:
        return type(value) is tuple and all(is_of(one, inner[0]) for one in value)
    if origin is dict:
        return type(value) is dict and all(
            is_of(key, inner[0]) and is_of(own, inner[1]) for key, own in value.items()
        )
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return type(value) is kind and all(
            is_of(getattr(value, name), entry.annotation)
            for name, entry in kind.model_fields.items()
        )
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return type(value) is kind and all(
            is_of(getattr(value, entry.name), hints[entry.name])
            for entry in dataclasses.fields(kind)
        )
    if kind is float:
        return type(value) in (float, int) and -1e300 < value < 1e300
    return type(value) is (type(None) if kind is None else kind)


def toml(value: Any) -> str:
    """A nested dict as TOML, as far as TOML goes."""
    entries = value.items() if isinstance(value, dict) else ()
    return "\n".join(f"{json.dumps(key)} = {_toml_value(entry)}" for key, entry in entries)


def _toml_value(value: Any) -> str:
    if isinstance(value, float) or value is None:
        return {"NaN": "nan", "Infinity": "inf", "null": "1999-01-01"}.get(
            json.dumps(value), json.dumps(value)
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        inner = (f"{json.dumps(key)} = {_toml_value(entry)}" for key, entry in value.items())
        return f"{{{', '.join(inner)}}}"
    return json.dumps(value)


def _meta(rng: random.Random, folder: Path) -> Any:
    (folder / "meta.json").write_bytes(json_file(rng, _META))
    return Meta.read(folder)


def _config(rng: random.Random, folder: Path) -> Any:
    (folder / "config.json").write_bytes(json_file(rng, rng.choice(_CONFIGS)))
    return RefragConfig.from_folder(folder)


def _recipe(rng: random.Random, folder: Path) -> Any:
    (folder / "recipe.toml").write_bytes(json_file(rng, _RECIPE, toml))
    return Recipe.load(folder / "recipe.toml")


def _questions(rng: random.Random, folder: Path) -> Any:
    data = json_file(rng, _QUESTION) + b"\n"
    name = "q.jsonl"
    if rng.random() < 0.2:
        import zstandard

        name = "q.jsonl.zst"
        data = zstandard.compress(data)
        data = damaged(rng, data) if rng.random() < 0.8 else data
    (folder / name).write_bytes(data)
    return load_questions(folder / name)[0]


def _texts(rng: random.Random, folder: Path) -> Any:
    path = folder / rng.choice(("t.jsonl", "t.txt"))
    path.write_bytes(json_file(rng, {"text": "Rain fell.", "id": 3}) + b"\n")
    return "".join(read_texts([path]))


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (_meta, Meta),
        (_config, RefragConfig),
        (_recipe, Recipe),
        (_questions, Question),
        (_texts, str),
    ],
)
def test_files_are_read_rightly_or_refused_in_the_librarys_own_words(
    tmp_path: Path, read: Callable[[random.Random, Path], Any], kind: type
) -> None:
    rng = random.Random(kind.__name__)
    taken = 0
    for number in range(_CASES):
        try:
            value = read(rng, tmp_path)
        except RefragError as error:
            assert str(error)
            continue
        except Exception as error:
            pytest.fail(f"case {number}: {type(error).__name__}: {error}")
        assert is_of(value, kind), value
        taken += 1
    assert 0 < taken < _CASES  # the cases are worth something
    assert altered(rng, _META) != _META
