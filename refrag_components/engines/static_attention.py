"""Attention over a static cache: for one new token per row, or for a prompt from the first one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from refrag_components.forking import OwnLock

__all__ = ["PLAIN", "attend", "static_attention"]

#: The implementation that others, in their threads, go on to use.
PLAIN = "sdpa"

_NAME = "refrag_static"

# A part of the keys per block of threads: with few rows and heads, whole rows would leave most of a
# GPU without work. Parts cost two small kernels more, so short rows stay whole.
_PART = 256
_WHOLE = 1024
_BLOCKS = 512

Phase = Literal["prompt", "step"]


class _Phase(threading.local):
    """What this thread decodes; other threads use the same decoder in other ways."""

    phase: Phase | None = None


_current = _Phase()
_only_one = OwnLock()


@contextmanager
def static_attention(decoder: Any, phase: Phase) -> Iterator[None]:
    """Lets a decoder attend as a static cache needs it, in this thread; other threads wait.

    Two engines may have one decoder, and each would restore what it has found of the other.

    Args:
        decoder: A decoder whose attention is ``PLAIN``.
        phase: "prompt": causal, over the keys given alone, whatever the mask; "step": one query
            per row, over the whole cache, with a mask of scores to add.
    """
    config = decoder.config
    with _only_one:
        before = config._attn_implementation
        _current.phase = phase
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before
            _current.phase = None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Attention of one new token per row; query heads that share keys are read together.

    Args:
        query: Shape (rows, heads, 1, width).
        key: Shape (rows, shared heads, positions, width); of any strides except the last one.
        value: As the key.
        mask: Scores to add, shape (rows, 1, 1, positions).
        scale: Factor of the scores; None for 1 / sqrt(width).

    Returns:
        Shape (rows, heads, 1, width).
    """
    rows, heads, _, width = query.shape
    shared, positions = key.shape[1:3]
    grouped = query.reshape(rows, shared, heads // shared, width)
    parts = _parts(rows * shared, positions)
    if parts == 1:
        bias = mask.expand(rows, shared, heads // shared, positions)
        out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=bias, scale=scale)
        return out.reshape(rows, heads, 1, value.shape[-1])
    out = _in_parts(grouped, key, value, mask, scale, parts)
    return out.reshape(rows, heads, 1, value.shape[-1])


def _parts(blocks: int, positions: int) -> int:
    """Into how many parts the keys are cut; they all have the same length."""
    parts = 1
    while (
        positions > _WHOLE
        and 2 * parts * blocks <= _BLOCKS
        and positions % (2 * parts) == 0
        and positions // (2 * parts) >= _PART
        and positions // (2 * parts) % 16 == 0  # alignment of the mask
    ):
        parts *= 2
    return parts


def _in_parts(
    grouped: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, parts: int
) -> Tensor:
    """Each part by itself, joined by the sums of its exponentials; shape as ``grouped``'s."""
    rows, shared, group, _ = grouped.shape
    length = key.shape[2] // parts
    # (parts, rows * shared heads, length, width): a view, parts in place of rows.
    keys, values = (
        states.unflatten(2, (parts, length)).flatten(0, 1).transpose(0, 1)
        for states in (key, value)
    )
    queries = grouped.reshape(1, rows * shared, group, -1).expand(parts, -1, -1, -1)
    bias = (
        mask.view(rows, 1, 1, parts, length)
        .expand(rows, shared, group, parts, length)
        .flatten(0, 1)
        .permute(2, 0, 1, 3)
    )
    out, sums = _attend_with_sums(queries, keys, values, bias, scale)
    weights = sums.softmax(dim=0).unsqueeze(-1)
    return (out * weights.to(out.dtype)).sum(dim=0).view(rows, shared, group, -1)


def _attend_with_sums(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of each query's sum of exponentials, in float32."""
    if query.device.type == "cuda":
        out, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True, scale=scale
        )
        return out, sums[..., : query.shape[2]]  # the kernel pads them
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.transpose(-1, -2) * factor + bias).float()
    return scores.softmax(dim=-1).to(value.dtype) @ value, scores.logsumexp(dim=-1)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention, as transformers calls it."""
    if _current.phase is None:
        plain = ALL_ATTENTION_FUNCTIONS[PLAIN]
        result: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return result
    unknown = [name for name in ("softcap", "position_bias", "s_aux") if others.get(name)]
    if unknown:
        msg = f"attention with {', '.join(unknown)} is not read from a static cache"
        raise NotImplementedError(msg)
    if _current.phase == "prompt":
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=scaling,
            enable_gqa=key.shape[1] < query.shape[1],
        )
    else:
        assert attention_mask is not None
        out = attend(query, key, value, attention_mask, scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _forward)
AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS[PLAIN])
