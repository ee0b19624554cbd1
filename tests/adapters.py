"""Adapters on tiny models, as checkpoints of earlier releases carry them."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.weights.loading import quietly


def attach_adapters(model: RefragModel, rank: int = 2) -> None:
    """Puts random adapters on decoder and encoder; those for all positions change nothing."""

    def settings() -> LoraConfig:
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")

    with quietly():
        decoder: Any = get_peft_model(model.decoder, settings())
        decoder.add_adapter(CHUNK_ADAPTER, settings())
        model.decoder = decoder
        model.encoder.model = get_peft_model(model.encoder.model, settings())
    for name, parameter in model.named_parameters():
        if f"lora_B.{CHUNK_ADAPTER}" in name:  # zero before training
            torch.nn.init.normal_(parameter, std=0.2)
