"""Llama with an adapter at chunk embeddings only, as a model of vLLM's.

vLLM loads this module in its own processes (``vllm_plugin``); the files come from
``vllm_decoder.export_decoder``.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from refrag_components.engines.chunk_marks import unmark
from refrag_components.exceptions import EngineError, MissingExtraError

try:
    from vllm.model_executor.models.llama import LlamaForCausalLM
except ImportError as error:
    msg = "this is a model of vLLM's; pip install 'refrag-components[vllm]'"
    raise MissingExtraError(msg) from error

__all__ = ["RefragLlamaForCausalLM"]

# What vLLM computes in one -> in whose place.
_FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class RefragLlamaForCausalLM(LlamaForCausalLM):
    """Adds s B A x in each linear layer at chunk embeddings, which arrive marked.

    As ``modeling.adapters.apply_at_chunks`` does; all of it on one worker.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "", **others: Any) -> None:
        parallel = vllm_config.parallel_config
        if parallel.tensor_parallel_size * parallel.pipeline_parallel_size > 1:
            msg = (
                "a checkpoint with an adapter at chunk embeddings runs on one worker: leave out "
                "tensor_parallel_size and pipeline_parallel_size"
            )
            raise EngineError(msg)
        super().__init__(vllm_config=vllm_config, prefix=prefix, **others)
        positions = vllm_config.scheduler_config.max_num_batched_tokens
        dtype = vllm_config.model_config.dtype
        # One place in memory for all passes: compiled code and CUDA graphs look there.
        self.register_buffer("at_chunks", torch.zeros(positions, 1, dtype=dtype), persistent=False)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        """As vLLM's models; marked rows of ``inputs_embeds`` are chunk embeddings."""
        if inputs_embeds is None:
            self.at_chunks.zero_()
        else:
            inputs_embeds, is_chunk = unmark(inputs_embeds)
            self.at_chunks[: len(is_chunk)] = is_chunk
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads the decoder's weights, and the adapter's into the layers that they belong to."""
        adapter: dict[str, Tensor] = {}

        def others() -> Iterable[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.endswith((_DOWN, _UP)):
                    adapter[name] = tensor
                else:
                    yield name, tensor

        loaded: set[str] = super().load_weights(others())
        for i, layer in enumerate(self.model.layers):
            for fused, parts in _FUSED.items():
                names = [f"model.layers.{i}.{part}" for part in parts]
                if any(name + _DOWN in adapter for name in names):
                    _adapt(layer.get_submodule(fused), names, adapter, self.at_chunks)
        if adapter:
            raise EngineError(f"nothing is adapted by {', '.join(sorted(adapter))}")
        return loaded


def _adapt(
    linear: nn.Module, names: list[str], adapter: dict[str, Tensor], at_chunks: Tensor
) -> None:
    """Lets a layer add its part of the adapter; takes that out of ``adapter``."""
    weight: Any = linear.weight
    down = torch.cat([adapter.pop(name + _DOWN) for name in names])
    up = torch.block_diag(*[adapter.pop(name + _UP) for name in names])
    for name, tensor in {"chunk_down": down, "chunk_up": up}.items():
        linear.register_buffer(name, tensor.to(weight), persistent=False)
    linear.register_buffer("at_chunks", at_chunks, persistent=False)
    setattr(linear, "forward", MethodType(_forward, linear))  # noqa: B010, mypy


def _forward(linear: Any, states: Tensor) -> tuple[Tensor, Any]:
    out, bias = type(linear).forward(linear, states)
    low = nn.functional.linear(states, linear.chunk_down) * linear.at_chunks[: len(states)]
    return out + nn.functional.linear(low, linear.chunk_up), bias
