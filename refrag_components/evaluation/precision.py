"""The floating-point precision of measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["mixed_precision"]


def mixed_precision(model: RefragModel) -> torch.autocast:
    """bfloat16 on CUDA or if the decoder was loaded in bfloat16, otherwise float32."""
    use_bfloat16 = model.device.type == "cuda" or model.dtype == torch.bfloat16
    return torch.autocast(model.device.type, torch.bfloat16, enabled=use_bfloat16)
