"""Attention over shapes that may never come again, without a plan for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from refrag_components.forking import OwnLock

__all__ = ["LONGEST_UNPLANNED", "unplanned_attention"]

#: Positions up to which a plan takes longer than it saves.
LONGEST_UNPLANNED = 4096


class _Users:
    """Who is inside, and how it was before."""

    def __init__(self) -> None:
        self.count = 0
        self.allowed = True


_users = _Users()
_lock = OwnLock()


@contextmanager
def unplanned_attention(positions: int) -> Iterator[None]:
    """Keeps PyTorch from cuDNN's attention, in all threads; its other kernels need no plan.

    PyTorch 2.10 and later prefer cuDNN on Hopper and Blackwell. It plans each new number of
    queries or keys, tens of milliseconds on the host: in decoding, in which the keys grow by one
    with every step, that is more than the step takes. What is recorded is planned once.

    Args:
        positions: Queries per row. Does nothing beyond ``LONGEST_UNPLANNED``: the longer they are,
            the more cuDNN's kernels save.
    """
    if positions > LONGEST_UNPLANNED:
        yield
        return
    with _lock:
        if not _users.count:
            _users.allowed = torch.backends.cuda.cudnn_sdp_enabled()
            torch.backends.cuda.enable_cudnn_sdp(False)
        _users.count += 1
    try:
        yield
    finally:
        with _lock:
            _users.count -= 1
            if not _users.count:
                torch.backends.cuda.enable_cudnn_sdp(_users.allowed)
