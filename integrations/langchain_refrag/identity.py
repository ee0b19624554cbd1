"""Values of settings as parts of a cache's key."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from refrag_components.policies.budget import BUDGETS, Budget

__all__ = ["plain_identity"]

# By id. Another object may get the same id later, so each object gets a name of which there is
# only one.
_names: dict[int, tuple[weakref.ref[Any], str]] = {}


def plain_identity(value: object) -> Any:
    """Turns a setting into plain values; settings that may answer differently never share them.

    An object that is not a plain value, such as a policy or an engine, is equal only to itself, in
    the same process.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Budget) and type(value) in BUDGETS:
        return value.number
    if isinstance(value, Mapping):
        return {str(key): plain_identity(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [plain_identity(entry) for entry in value]
    return _name_of(value)


def _name_of(value: object) -> str:
    known = _names.get(id(value))
    if known is None or known[0]() is not value:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        known = (weakref.ref(value), f"{kind} {uuid4().hex}")
        _names[id(value)] = known
    return known[1]
