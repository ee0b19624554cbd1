"""Low-rank adapters: one for all positions, one for chunk embeddings only."""

from __future__ import annotations

import threading
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
    "ThreadChunkMask",
    "apply_at_chunks",
    "layers_at_chunks",
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


def apply_at_chunks(model: nn.Module, chunk_mask: ChunkMask) -> None:
    """Lets adapted linear layers add the chunk adapter at chunk embeddings and nowhere else.

    A layer adds s B A x at chunk embeddings, so that a decoder reads plain text as if the adapter
    were not there (as the visual expert of CogVLM, arXiv 2311.03079, and partial LoRA, arXiv
    2401.16420, do for images). PEFT has no such adapter.

    Args:
        model: Model whose adapted layers, plain LoRA without dropout, are changed in place.
        chunk_mask: Which positions are chunk embeddings; looked up at every pass.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if isinstance(layer, Linear) and CHUNK_ADAPTER in layer.lora_A:
            setattr(layer, "chunk_mask", chunk_mask)  # noqa: B010, mypy
            setattr(layer, "forward", MethodType(_forward, layer))  # noqa: B010, mypy


def layers_at_chunks(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers with an adapter at chunk embeddings, by their names in the model."""
    from peft.tuners.lora import Linear

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and CHUNK_ADAPTER in layer.lora_A
    }


def _forward(layer: Any, states: Tensor) -> Tensor:
    out: Tensor = layer.base_layer(states)
    mask = layer.chunk_mask.mask
    if mask is None:
        return out
    low = layer.lora_A[CHUNK_ADAPTER](states) * mask.view(*states.shape[:-1], 1)
    return torch.add(out, layer.lora_B[CHUNK_ADAPTER](low), alpha=layer.scaling[CHUNK_ADAPTER])
