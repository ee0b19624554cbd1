"""REFRAG: a decoder that reads chunk embeddings in place of the tokens of its context.

The classes that most programs begin with are here; they are imported when first used, because
torch takes seconds. All others are in the packages below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components._lazy import hand_on

if TYPE_CHECKING:
    from refrag_components.generation.generator import RefragGenerator
    from refrag_components.index import RefragIndex
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.config import RefragConfig

__all__ = ["RefragConfig", "RefragGenerator", "RefragIndex", "RefragModel"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "RefragConfig": "modeling.config",
        "RefragGenerator": "generation.generator",
        "RefragIndex": "index",
        "RefragModel": "modeling",
    },
)
