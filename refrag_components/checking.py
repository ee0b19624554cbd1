"""Reading what others wrote: JSON of any depth, and values checked against declared types."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

__all__ = ["checked", "did_you_mean", "parse_json"]

_Value = TypeVar("_Value")

_SURROGATES = re.compile("[\ud800-\udfff]")


def parse_json(text: str | bytes, *, strict: bool = True) -> Any:
    """``json.loads`` with one kind of error.

    Args:
        text: The JSON.
        strict: Whether strings may hold no control characters.

    Raises:
        ValueError: If it is not JSON, is nested too deeply to be read, or holds a number too long.
    """
    try:
        return json.loads(text, strict=strict)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def checked(kind: type[_Value], value: object) -> _Value:
    """A value from a file as the type that it claims to be.

    Nothing is converted, but lists become tuples, objects become dataclasses and models, and half
    characters, which no text file can hold, become U+FFFD.

    Args:
        kind: A type that pydantic knows: a model, a dataclass, ``dict[str, int]`` and the like.
        value: As ``parse_json`` or ``tomllib`` returned it.

    Raises:
        ValueError: If it is of another type; names the place, what is expected and what is there.
    """
    try:
        text = _SURROGATES.sub("\ufffd", json.dumps(value, ensure_ascii=False))
        # As JSON, because in Python pydantic's strictness takes no list for a tuple.
        adapter: TypeAdapter[_Value] = _adapter(kind)  # type: ignore[arg-type]
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(map(_described, error.errors()[:3]))) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except TypeError as error:  # TOML has dates
        raise ValueError(f"it holds what JSON cannot hold: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that may be meant, or all of them.

    Args:
        name: The unknown name.
        known: Names that there are.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _described(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    # A check of ours says itself what it got.
    silent = error["type"] in ("json_invalid", "missing", "value_error")
    given = "" if silent else f", got {error['input']!r:.80}"
    reason = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {reason[:1].lower()}{reason[1:]}{given}" if place else f"{reason}{given}"
