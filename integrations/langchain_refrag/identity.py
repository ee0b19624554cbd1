"""Values of settings as parts of a cache's key."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from refrag_components.policies.budget import BUDGETS, Budget

__all__ = ["plain_identity"]

# By id. An address is given to another object later, so each object gets a name that nothing else
# ever had.
_names: dict[int, tuple[weakref.ref[Any], str]] = {}


def plain_identity(value: object) -> Any:
    """Makes plain values of a setting; no two settings that may answer differently share them.

    An object that is no plain value, such as a policy or an engine, stands for itself alone: the
    same object in the same process.
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
