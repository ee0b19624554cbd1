"""Low-rank adapters that train as fast as the weights they adapt."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from refrag_components.modeling import RefragModel
from refrag_components.pretrained import quietly
from refrag_components.training.recipe import LoraSettings

__all__ = ["attach_adapters", "fold_adapters", "store_frozen_in_bfloat16"]


def attach_adapters(model: RefragModel, lora: LoraSettings) -> None:
    """Puts trainable low-rank adapters on decoder and encoder where they carry none yet."""
    from peft import LoraConfig, PeftModel, get_peft_model

    def adapted(part: Any, rank: int, ranks: dict[str, int]) -> Any:
        if isinstance(part, PeftModel):
            return part
        settings = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            rank_pattern=dict(ranks),
            alpha_pattern={name: 2 * r for name, r in ranks.items()},
            target_modules="all-linear",
        )
        with quietly():
            return get_peft_model(part, settings)

    model.decoder = adapted(model.decoder, lora.decoder_rank, lora.decoder_ranks)
    model.encoder.model = adapted(model.encoder.model, lora.encoder_rank, {})


def fold_adapters(model: nn.Module) -> None:
    """Lets adapted linear layers multiply once, by W + s B A, instead of three times.

    PEFT multiplies a batch's states by W, A and B one after another. The small products cost
    little arithmetic but read and write all states; a batch has tens of thousands of positions,
    so making the sum of the matrices anew at every pass is far cheaper. The result is the same
    but for rounding, and it is how the adapter is used once it is merged. Checkpoints do not
    change.

    Args:
        model: Whose adapted layers, plain LoRA without dropout, are changed in place.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if isinstance(layer, Linear):
            setattr(layer, "forward", MethodType(_folded_forward, layer))  # noqa: B010, mypy


def store_frozen_in_bfloat16(model: nn.Module) -> None:
    """Frozen weights need no float32 copy; autocast computes in bfloat16 anyway."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def _folded_forward(layer: Any, states: Tensor) -> Tensor:
    base = layer.base_layer
    if layer.disable_adapters:
        plain: Tensor = base(states)
        return plain
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    frozen = base.weight.T if layer.fan_in_fan_out else base.weight  # GPT-2 stores it transposed
    weight = frozen + layer.scaling["default"] * (b @ a)
    return nn.functional.linear(states, weight.to(states.dtype), base.bias)
