"""A tiny model whose adapters change what it computes."""

from __future__ import annotations

from pathlib import Path

import torch

from refrag_components.configuration import RefragConfig
from refrag_components.modeling import RefragModel
from refrag_components.training.adapters import attach_adapters
from refrag_components.training.recipe import LoraSettings


def adapted_model(decoder: Path, encoder: Path) -> RefragModel:
    """A model of these bases with adapters; their B, zero before training, is drawn."""
    config = RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    refrag = RefragModel.from_base(config)
    attach_adapters(refrag, LoraSettings(decoder_rank=4, encoder_rank=4))
    torch.manual_seed(2)
    for name, parameter in refrag.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return refrag
