"""RMS norms in one kernel each, where a decoder has one kernel for each of their operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

__all__ = ["fused_norms"]


@contextmanager
def fused_norms(decoder: Any) -> Iterator[None]:
    """Replaces the RMS norms of the Llama family while something is recorded, or read at once.

    They keep more digits between their operations; other threads, if any, get the same.

    Args:
        decoder: Any decoder, or a part of one.
    """
    norms = [
        module
        for module in decoder.modules()
        if type(module).__name__.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")  # others add one to their weights
        and "forward" not in vars(module)
    ]
    for norm in norms:
        norm.forward = partial(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)  # another thread may have been here as well


def _forward(norm: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, (states.shape[-1],), norm.weight, norm.variance_epsilon)
