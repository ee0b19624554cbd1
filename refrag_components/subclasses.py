"""The kinds of something, from their classes."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["concrete_classes"]


def concrete_classes(base: type) -> list[Any]:
    """Classes under a base class of which objects can be made, in the order of their definition.

    The classes under each of them follow it; one with an abstract method is left out.

    Args:
        base: The base class; the modules with its subclasses are imported already.
    """
    found: list[Any] = []
    below: list[Any] = base.__subclasses__()
    for kind in below:
        if not inspect.isabstract(kind):
            found.append(kind)
        found += concrete_classes(kind)
    return found
