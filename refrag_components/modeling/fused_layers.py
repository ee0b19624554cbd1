"""The layers of the Llama family in half as many kernels, for work that waits for launches.

With one row a kernel of a layer takes less time than there is between two of them, and with a few
hundred positions the smaller matrix products leave a part of a GPU without work. So queries, keys
and values are one product, and so are both inputs of the MLP; what is added to a product's result
is added by the product; and queries and keys are rotated together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["fused_layers"]

_KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


@contextmanager
def fused_layers(decoder: Any) -> Iterator[None]:
    """Replaces the layers of the Llama family while something is recorded, or read at once.

    Weights that are multiplied in one product are put next to each other in memory, once; they
    remain the decoder's own, with the same values. Sums keep more digits than the decoder's. Other
    threads, if any, get the same.

    Args:
        decoder: Any decoder, or a part of one; layers of other kinds, with adapters, with hooks or
            with weights that were made in inference mode stay as they are.
    """
    layers = [module for module in decoder.modules() if _suits(module)]
    signs = _Signs()
    for layer in layers:
        layer.forward = partial(_forward, layer, signs)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # another thread may have been here as well


def _suits(module: Any) -> bool:
    if type(module).__name__ not in _KINDS or "forward" in vars(module) or module.training:
        return False
    inner = (module.self_attn, module.mlp)
    linear = [getattr(module.self_attn, name) for name in _ATTENTION]
    linear += [getattr(module.mlp, name) for name in _MLP]
    plain = all(type(each) is nn.Linear and "forward" not in vars(each) for each in linear)
    # Weights that were made in inference mode cannot be moved; trying spoils them.
    movable = not any(parameter.is_inference() for parameter in module.parameters())
    return plain and movable and not any("forward" in vars(each) for each in inner)


class _Signs:
    """The sines of a pass with the signs that they have in a rotation, made once per pass."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None  # in one, for threads

    def signed(self, sin: Tensor) -> Tensor:
        """Negative in the first half of each head, shape as ``sin``'s."""
        last = self._last
        if last is None or last[0] is not sin:
            first, second = sin.chunk(2, dim=-1)
            self._last = last = sin, torch.cat([-first, second], dim=-1)
        return last[1]


def _forward(
    layer: Any,
    signs: _Signs,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **given: Any,
) -> Tensor:
    """One layer, as transformers calls it."""
    if torch.is_grad_enabled():  # somebody else, in another thread: nothing is changed in place
        states: Tensor = type(layer).forward(layer, hidden_states, attention_mask, **given)
        return states
    attention, mlp = layer.self_attn, layer.mlp
    rows, length, width = hidden_states.shape
    states = hidden_states.reshape(-1, width)
    if attention.layer_idx == 0:
        states = states.clone()  # what follows adds to it, and the embeddings are needed again
    query, key, value = _rotated(
        attention, signs, layer.input_layernorm(hidden_states), given["position_embeddings"]
    )
    cache = given.get("cache", given.get("past_key_values"))  # its name in earlier transformers
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    read, _ = attend(attention, query, key, value, attention_mask, scaling=attention.scaling)
    _add_product(states, read.reshape(len(states), -1), attention.o_proj)
    normed = layer.post_attention_layernorm(states)
    gate, up = _product(normed, (mlp.gate_proj, mlp.up_proj)).chunk(2, dim=-1)
    _add_product(states, mlp.act_fn(gate).mul_(up), mlp.down_proj)
    return states.view(rows, length, width)


def _rotated(
    attention: Any, signs: _Signs, states: Tensor, position_embeddings: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, shape (rows, heads, positions, width of a head) each."""
    width = attention.head_dim
    joined = _product(states, (attention.q_proj, attention.k_proj, attention.v_proj))
    heads = joined.unflatten(-1, (-1, width))
    n_query, n_key = (
        projection.out_features // width for projection in (attention.q_proj, attention.k_proj)
    )
    turning, value = heads.split((n_query + n_key, heads.shape[2] - n_query - n_key), dim=2)
    cos, sin = position_embeddings
    swapped = turning.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    turned = torch.addcmul(turning * cos.unsqueeze(2), swapped, signs.signed(sin).unsqueeze(2))
    query, key = turned.split((n_query, n_key), dim=2)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _product(states: Tensor, projections: Sequence[nn.Linear]) -> Tensor:
    """What several projections make of the same states, one after another in the last dimension."""
    weight = _joined([projection.weight for projection in projections])
    given: list[Any] = [projection.bias for projection in projections]
    biases = [bias for bias in given if bias is not None]
    if biases and len(biases) < len(projections):
        raise NotImplementedError("some of the projections have a bias and some have none")
    return F.linear(states, weight, _joined(biases) if biases else None)


def _add_product(target: Tensor, states: Tensor, projection: nn.Linear) -> None:
    """Adds what a projection makes of states, shape (n, width), to a target in place."""
    target.addmm_(states, projection.weight.T)
    if projection.bias is not None:
        target.add_(projection.bias)


def _joined(parameters: Sequence[Any]) -> Tensor:
    """Parameters as one tensor, of which they are parts from then on."""
    first = parameters[0]
    shape = (sum(len(parameter) for parameter in parameters), *first.shape[1:])
    if not _adjacent(parameters):
        with torch.inference_mode(False), torch.no_grad():
            whole = torch.cat([parameter.detach() for parameter in parameters])
            sizes = [len(parameter) for parameter in parameters]
            for parameter, part in zip(parameters, whole.split(sizes), strict=True):
                parameter.data = part
    return first.as_strided(shape, first.stride())


def _adjacent(parameters: Sequence[Tensor]) -> bool:
    """Whether each begins in memory where the one before it ends."""
    if not all(parameter.is_contiguous() for parameter in parameters):
        return False
    storage = parameters[0].untyped_storage().data_ptr()
    place = parameters[0].data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != place or parameter.untyped_storage().data_ptr() != storage:
            return False
        place += parameter.numel() * parameter.element_size()
    return True
