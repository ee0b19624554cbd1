"""Everything that has weights: decoder, encoders, projector, adapters and policy networks.

Imported when first used, because torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components._lazy import hand_on

if TYPE_CHECKING:
    from refrag_components.modeling.model import RefragModel

__all__ = ["RefragModel"]

__getattr__, __dir__ = hand_on(__name__, {"RefragModel": "model"})
