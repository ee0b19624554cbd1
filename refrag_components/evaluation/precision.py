"""In which precision a measurement computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["mixed_precision"]


def mixed_precision(model: RefragModel) -> torch.autocast:
    """bfloat16 on CUDA, and wherever the decoder was loaded so; else float32."""
    wanted = model.device.type == "cuda" or model.dtype == torch.bfloat16
    return torch.autocast(model.device.type, torch.bfloat16, enabled=wanted)
