"""Locks that a forked child does not inherit in a state that nobody will ever change.

A fork copies the memory of a process, but of its threads only the one that forks. A lock that
another thread holds at that moment is held for ever in the child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["OwnLock"]


class OwnLock:
    """A lock for ``with`` that every process has for itself, free at the start.

    What it protects may have been left half done by a thread that the child does not have; whoever
    uses it looks at ``inherited`` then.

    Args:
        make: ``threading.Lock`` or ``threading.RLock``.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        self._make = make
        self._lock: Any = make()
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether it comes from a parent process and was not used in this one yet."""
        return self._process != os.getpid()

    def __enter__(self) -> OwnLock:
        if self.inherited:  # only one thread lives just after a fork
            self._lock, self._process = self._make(), os.getpid()
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.inherited:  # a child that was forked inside the block holds nothing
            self._lock.release()
