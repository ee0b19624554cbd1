"""Files as they come out of damage, of other programs, or of hostile hands."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    3,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    10**30,
    -(10**30),
    10**400,
    "",
    "x",
    "8",
    "\x00",
    "\x1b[31m",
    "\ud800",
    "../../etc",
    "x" * 5000,
    [],
    {},
    [None],
    {"a": 1},
    [[["x"]]],
    [True, 2.5, "y", None],
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs in a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                waiting.append(container[key])
    return found


def altered(rng: random.Random, value: Any) -> Any:
    """A JSON value with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        choices = places(value)
        if not choices:
            return _odd(rng)
        container, key = rng.choice(choices)
        change = rng.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(("", "unknown", "_", "__class__", "__init__"))] = _odd(rng)
        elif change == 2:
            other, its = rng.choice(choices)
            try:
                container[key] = copy.deepcopy(other[its])
            except (IndexError, KeyError):  # that one is gone
                container[key] = None
        else:
            container[key] = _odd(rng)
    return value


def _odd(rng: random.Random) -> Any:
    """One of ``ODD``; a copy, which later changes alter without altering what is drawn then."""
    return copy.deepcopy(rng.choice(ODD))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes that were cut, flipped, doubled, or are something else."""
    place = rng.randrange(len(data) + 1)
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(len(data))] = rng.randrange(256)
    return rng.choice(
        (
            data[:place],
            data[place:],
            bytes(flipped),
            data[:place] + rng.randbytes(8) + data[place:],
            data + data,
            b"",
            b"\0" * len(data),
            data.decode("latin-1").encode("utf-16"),
            b"[" * 200_000,
            b'{"a":' * 200_000,
        )
    )


def json_file(rng: random.Random, value: Any, dumps: Callable[[Any], str] = json.dumps) -> bytes:
    """A file of a JSON value, altered in its values or in its bytes."""
    if rng.random() < 0.7:
        return dumps(altered(rng, value)).encode("utf-8", "surrogatepass")
    return damaged(rng, dumps(value).encode())
