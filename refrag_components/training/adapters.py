"""The adapters that training puts on a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.modeling.model import fold_adapters_for_training
from refrag_components.training.recipe import LoraSettings
from refrag_components.weights.loading import quietly

__all__ = ["attach_adapters", "store_frozen_in_bfloat16"]


def attach_adapters(model: RefragModel, lora: LoraSettings) -> None:
    """Puts trainable low-rank adapters on decoder and encoder where they carry none yet.

    Args:
        model: Changed in place.
        lora: Ranks; an encoder's of 0 leaves it as it is.

    Raises:
        TrainingError: If the model was loaded for inference, its adapters merged.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if model.loaded_adapters:
        msg = "this model was loaded for inference; load it by RefragModel.for_training instead"
        raise TrainingError(msg)

    def settings(rank: int) -> LoraConfig:
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")

    def adapted(part: Any, rank: int) -> Any:
        return part if isinstance(part, PeftModel) else get_peft_model(part, settings(rank))

    with quietly():
        model.decoder = adapted(model.decoder, lora.decoder_rank)
        if CHUNK_ADAPTER not in model.decoder.peft_config:
            model.decoder.add_adapter(CHUNK_ADAPTER, settings(lora.chunk_rank))
        if lora.encoder_rank:
            model.encoder.model = adapted(model.encoder.model, lora.encoder_rank)
        else:
            model.encoder.requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        parameter.requires_grad_("lora_" in name)  # PEFT lets one adapter train at a time
    fold_adapters_for_training(model)


def store_frozen_in_bfloat16(model: nn.Module) -> None:
    """Frozen weights need no float32 copy; autocast computes in bfloat16 anyway.

    But for adapters: a frozen one is saved with the checkpoint, as it was.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
