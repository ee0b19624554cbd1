"""REFRAG: a decoder that reads chunk embeddings in place of the tokens of its context.

The classes that most programs begin with are here; they are imported when first used, because
torch takes seconds. All others are in the modules named like them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refrag_components.configuration import RefragConfig
    from refrag_components.generator import RefragGenerator
    from refrag_components.index import RefragIndex
    from refrag_components.modeling import RefragModel

__all__ = ["RefragConfig", "RefragGenerator", "RefragIndex", "RefragModel"]

_MODULES = {
    "RefragConfig": "configuration",
    "RefragGenerator": "generator",
    "RefragIndex": "index",
    "RefragModel": "modeling",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
