"""Low-rank adapters: one for all positions, one for chunk embeddings only."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CHUNK_ADAPTER",
    "EVERYWHERE",
    "ChunkMask",
    "FoldedWeights",
    "ThreadChunkMask",
    "fold_adapters",
]

#: PEFT's name of the adapter at chunk embeddings, and its folder in a checkpoint.
CHUNK_ADAPTER = "chunk_adapter"

#: PEFT's name of the adapter for all positions.
EVERYWHERE = "default"


class ChunkMask:
    """Which positions of the decoder's current input are chunk embeddings.

    Attributes:
        mask: True at a chunk embedding, shape (rows, positions), bool; None if there is none.
    """

    mask: Tensor | None = None

    @contextmanager
    def using(self, mask: Tensor | None) -> Iterator[None]:
        """Sets the mask for the passes inside the ``with`` block.

        Args:
            mask: As the attribute.
        """
        before, self.mask = self.mask, mask
        try:
            yield
        finally:
            self.mask = before


class ThreadChunkMask(ChunkMask, threading.local):
    """A mask per thread: other threads read other prompts with the same decoder."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy of a model gets a separate mask."""
        return ThreadChunkMask, ()


def fold_adapters(model: nn.Module, chunk_mask: ChunkMask) -> None:
    """Lets adapted linear layers multiply once, by W + s B A, and adds the chunk adapter.

    PEFT multiplies a batch's states by W, A and B one after another. The small products cost
    little arithmetic but read and write all states; a batch has tens of thousands of positions,
    so computing the sum of the matrices again at every pass is far cheaper. The result is the same
    except for rounding, and it is how the adapter is used once it is merged. Checkpoints do not
    change.

    The chunk adapter is not part of that sum: it adds s B A x at chunk embeddings and nothing
    elsewhere, so that a decoder reads plain text as if the adapter were not there (as the visual
    expert of CogVLM, arXiv 2311.03079, and partial LoRA, arXiv 2401.16420, do for images). PEFT
    has no such adapter.

    Args:
        model: Model whose adapted layers, plain LoRA without dropout, are changed in place.
        chunk_mask: Which positions are chunk embeddings; looked up at every pass.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if isinstance(layer, Linear):
            setattr(layer, "chunk_mask", chunk_mask)  # noqa: B010, mypy
            setattr(layer, "folded", None)  # noqa: B010, mypy
            setattr(layer, "forward", MethodType(_folded_forward, layer))  # noqa: B010, mypy


class FoldedWeights:
    """The folded weights of all layers, computed once for all passes of a training step.

    Layers of one shape are multiplied together: hundreds of small products per pass cost a GPU
    almost no time, but launching them costs the CPU a good part of the step's. The folded weights
    take as much memory as the base weights.

    Args:
        model: Model whose adapters are folded (``fold_adapters``).
        at_once: False computes none: each pass folds each layer by itself and keeps nothing.
    """

    def __init__(self, model: nn.Module, *, at_once: bool = True) -> None:
        from peft.tuners.lora import Linear

        self._at_once = at_once
        by_shape = defaultdict(list)
        for layer in model.modules():
            if isinstance(layer, Linear) and EVERYWHERE in layer.lora_A:
                by_shape[layer.lora_B[EVERYWHERE].weight.shape, layer.in_features].append(layer)
        self._groups: list[list[Any]] = list(by_shape.values())

    def make(self) -> None:
        """Folds the adapters as they are now; all passes use the result until ``forget``."""
        if not self._at_once:
            self.forget()
            return
        for layers in self._groups:
            a = torch.stack([layer.lora_A[EVERYWHERE].weight for layer in layers])
            b = torch.stack([layer.lora_B[EVERYWHERE].weight for layer in layers])
            for layer, product in zip(layers, (b @ a).unbind(), strict=True):
                layer.folded = _folded(layer, product)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Uses only the base weights inside the ``with`` block."""
        before = [(layer, layer.folded) for layers in self._groups for layer in layers]
        for layer, _ in before:
            layer.folded = _frozen(layer)
        try:
            yield
        finally:
            for layer, folded in before:
                layer.folded = folded

    def forget(self) -> None:
        """Lets each pass fold the weights itself again: the adapters have changed."""
        for layers in self._groups:
            for layer in layers:
                layer.folded = None


def _frozen(layer: Any) -> Tensor:
    weight: Tensor = layer.base_layer.weight.detach()
    return weight.T if layer.fan_in_fan_out else weight  # GPT-2: transposed


def _folded(layer: Any, product: Tensor) -> Tensor:
    return torch.add(_frozen(layer), product, alpha=layer.scaling[EVERYWHERE])


def _folded_forward(layer: Any, states: Tensor) -> Tensor:
    base = layer.base_layer
    if layer.disable_adapters or EVERYWHERE not in layer.lora_A:
        out: Tensor = base(states)
    else:
        weight = layer.folded
        if weight is None:
            a, b = layer.lora_A[EVERYWHERE].weight, layer.lora_B[EVERYWHERE].weight
            weight = _folded(layer, b @ a)
        out = nn.functional.linear(states, weight.to(states.dtype), base.bias)
    if layer.disable_adapters or CHUNK_ADAPTER not in layer.lora_A:
        return out
    mask = layer.chunk_mask.mask
    if mask is None:
        return out
    low = layer.lora_A[CHUNK_ADAPTER](states) * mask.view(*states.shape[:-1], 1)
    return torch.add(out, layer.lora_B[CHUNK_ADAPTER](low), alpha=layer.scaling[CHUNK_ADAPTER])
