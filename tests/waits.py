"""What makes a host wait for its device, counted without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# How operations are called whose result a GPU has to hand over before the host goes on.
_WAITING = (
    "local_scalar_dense",
    "nonzero",
    "masked_select",
    "repeat_interleave",
    "unique",
    "item",
    "equal",
)


class _Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        by_mask = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
        )
        if by_mask or name.startswith(_WAITING):
            self.found.append(name)
        return func(*args, **kwargs or {})


def waits(work: Callable[[], object]) -> list[str]:
    """The operations of some work that would wait for a GPU, in order."""
    with _Waits() as noted:
        work()
    return noted.found
