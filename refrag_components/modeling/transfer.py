"""Arrays from the host to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from refrag_components.vectors import ChunkVectors

__all__ = ["joined_on_device", "vectors_on_device"]


def joined_on_device(rows: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Joins arrays along their first axis on a device, without waiting for it.

    For a GPU they are joined in page-locked memory, from which it copies by itself; other memory
    would be copied a second time, while the host waits.

    Args:
        rows: At least one, all of one type, alike except for their first axis.
        device: Where the result goes.
    """
    shape = (sum(len(array) for array in rows), *rows[0].shape[1:])
    dtype = torch.from_numpy(np.empty(0, rows[0].dtype)).dtype
    joined = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.concatenate(rows, out=joined.numpy())
    return joined.to(device, non_blocking=True)


def vectors_on_device(passages: Sequence[ChunkVectors], device: torch.device) -> Tensor:
    """The chunk vectors of passages on a device, in one copy; as ``joined_on_device``.

    Args:
        passages: At least one, of one width.
        device: Where the result goes.

    Returns:
        Shape (chunks, d_enc), float16 if all passages keep their vectors so, else float32.
    """
    halves = [kept for passage in passages if (kept := passage.halves) is not None]
    if len(halves) == len(passages):
        return joined_on_device(halves, device)
    return joined_on_device([passage.vectors for passage in passages], device)
