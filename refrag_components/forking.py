"""Locks that a forked child does not inherit in a state that nobody will ever change.

A fork copies the memory of a process, but of its threads only the one that forks. A lock that
another thread holds at that moment is held for ever in the child. Those of this library are
``OwnLock``; those inside PyTorch's libraries (MKL's allocator spins on one) cannot be replaced, so
a fork waits until no thread of this library computes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["OwnLock", "OwnProcess", "computing"]

_PATIENCE = 30.0  # seconds that a fork waits: whoever computes may be waiting for who forks


class OwnProcess:
    """What a child begins again; its first use there may be by several threads at once."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether it comes from a parent process and was not used in this one yet."""
        return self._process != os.getpid()

    def begin_again(self, begin: Callable[[], object]) -> None:
        """Calls ``begin`` if inherited: once, and before any other thread gets past here."""
        if self.inherited:
            with _renewing:
                if self.inherited:
                    begin()
                    self._process = os.getpid()


class OwnLock(OwnProcess):
    """A lock for ``with`` that every process has for itself, free at the start.

    What it protects may have been left half done by a thread that the child does not have; whoever
    uses it calls ``begin_again`` before.

    Args:
        make: ``threading.Lock`` or ``threading.RLock``.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        super().__init__()
        self._make = make
        self._lock: Any = make()

    def begin_again(self, begin: Callable[[], object]) -> None:
        """Calls ``begin`` if inherited: once, and before any thread holds the lock."""

        def renew() -> None:
            begin()
            self._lock = self._make()

        super().begin_again(renew)

    def __enter__(self) -> OwnLock:
        if self.inherited:
            self.begin_again(lambda: None)
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.inherited:  # a child that was forked inside the block holds nothing
            self._lock.release()


@contextmanager
def computing() -> Iterator[None]:
    """A block, or as a decorator a function, that a fork waits for: it calls PyTorch.

    Keep it as short as a pass of a network, and wait for nothing inside.
    """
    _gate.enter()
    try:
        yield
    finally:
        _gate.leave()


class _Gate:
    """Lets threads compute, except while one forks."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._depth
        self._forking = 0

    @property
    def _depth(self) -> int:
        """Blocks that this thread is in."""
        return getattr(self._own, "depth", 0)

    @property
    def forking(self) -> bool:
        """Whether a thread waits to fork."""
        return self._forking > 0

    def enter(self) -> None:
        with self._changed:
            if not self._depth:  # a fork waits for a thread that is in a block already
                self._changed.wait_for(lambda: not self._forking)
            self._inside += 1
            self._own.depth = self._depth + 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._own.depth = self._depth - 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()
        self._forking += 1
        self._changed.wait_for(lambda: self._inside <= self._depth, _PATIENCE)

    def after_in_parent(self) -> None:
        self._forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def after_in_child(self) -> None:
        self._begin()


def _after_in_child() -> None:
    global _renewing  # who held it stayed behind
    _renewing = threading.RLock()
    _gate.after_in_child()


_gate = _Gate()
_renewing = threading.RLock()

if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(
        before=_gate.before_fork,
        after_in_parent=_gate.after_in_parent,
        after_in_child=_after_in_child,
    )
