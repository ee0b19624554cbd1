"""Stores as a request sees them: one that is slow, down or broken costs an encoder pass, no more.

A store only saves time. It is therefore read for a limited time, written to behind the answer's
back, and left alone for a while after it failed; whatever it raises, or returns that is not
chunk vectors, is a miss.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from refrag_components.exceptions import shown
from refrag_components.forking import OwnLock
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.common.limits import Call
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["StoreGuard", "guard_of", "time_limit"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 5.0  # seconds after a failure; twice as long after each further one, up to
_LONGEST_PAUSE = 300.0

_WAITING_BYTES = 2**28  # of values that are still to be written; older ones are given up
_GOODBYE = 2.0  # seconds that the interpreter's end waits for what is still to be written


class _Breaker:
    """Says when a store that failed may be tried again.

    Args:
        action: What is done to chunk vectors, for messages.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, action: str, clock: Callable[[], float]) -> None:
        self._action = action
        self._clock = clock
        self._until = 0.0
        self._pause = _FIRST_PAUSE
        self.trouble: str | None = None

    @property
    def closed(self) -> bool:
        """Whether the store may be tried."""
        return self.trouble is None or self._clock() >= self._until

    def succeeded(self) -> None:
        """Forgets all trouble."""
        self.trouble, self._pause = None, _FIRST_PAUSE

    def failed(self, reason: str) -> None:
        """Opens for a while."""
        self.trouble = f"chunk vectors could not be {self._action}: {reason}"
        logger.warning("%s; the store is left alone for %g seconds", self.trouble, self._pause)
        self._until = self._clock() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class StoreGuard:
    """Reads and writes one store so that it cannot harm a request.

    Does not keep the store alive. Safe for many threads.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._reading = _Breaker("read", clock)
        self._writing = _Breaker("written", clock)
        self._stuck: list[Call] = []
        self._waiting: OrderedDict[str, ChunkVectors] = OrderedDict()
        self._writer: threading.Thread | None = None
        _guards.add(self)

    def read(
        self, store: ChunkStore, keys: Sequence[str]
    ) -> tuple[list[ChunkVectors | None], str | None]:
        """What the store has, or what is still to be written to it.

        Returns:
            One entry per key, None for misses; and what is the matter with the store, if anything.
        """
        if isinstance(store, MemoryStore):
            return store.mget(keys), None
        with self._lock:
            waiting = {key: self._waiting[key] for key in keys if key in self._waiting}
            trouble = self._writing.trouble
            self._stuck = [call for call in self._stuck if call.is_alive()]
            if not self._reading.closed or self._stuck:
                return [waiting.get(key) for key in keys], self._reading.trouble
        asked = [key for key in keys if key not in waiting]
        rows, reason = self._ask(store, asked) if asked else ([], None)
        with self._lock:
            if reason is not None:
                self._reading.failed(reason)
                trouble = self._reading.trouble
            elif asked:
                self._reading.succeeded()
        found = waiting | dict(zip(asked, rows, strict=True))
        return [found.get(key) for key in keys], trouble

    def write(self, store: ChunkStore, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        """Has another thread write values, soon; they are lost if the store cannot be written."""
        if not pairs:
            return
        if isinstance(store, MemoryStore):
            store.mset(pairs)
            return
        with self._lock:
            if not self._writing.closed:
                return
            self._waiting.update(pairs)
            size = sum(value.nbytes for value in self._waiting.values())
            while size > _WAITING_BYTES:  # the writer is slow, or never comes back
                size -= self._waiting.popitem(last=False)[1].nbytes
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write, args=(store,), daemon=True, name="refrag-store-writer"
                )
                self._writer.start()

    def flush(self, seconds: float | None = None) -> bool:
        """Waits until nothing is left to be written.

        Args:
            seconds: For at most so long; None without limit.

        Returns:
            Whether nothing is left.
        """
        with self._lock:
            return self._idle.wait_for(lambda: self._writer is None, seconds)

    def forget_threads(self) -> None:
        """In a forked child, where no thread but its own lives: begins again."""
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._stuck, self._writer = [], None
        self._waiting.clear()  # the parent writes them

    def _ask(
        self, store: ChunkStore, keys: list[str]
    ) -> tuple[list[ChunkVectors | None], str | None]:
        """Rows, and why there are none."""
        nothing: list[ChunkVectors | None] = [None] * len(keys)
        limit = time_limit(store)
        call = Call(lambda: store.mget(keys))
        call.start()
        call.join(limit)
        if call.is_alive():
            with self._lock:
                self._stuck.append(call)
            return nothing, f"the store did not answer in {limit:g} seconds"
        if call.error is not None:
            return nothing, _described(call.error)
        rows = call.result
        try:
            rows = list(rows)
            sound = [row is None or isinstance(row, ChunkVectors) for row in rows]
        except Exception as error:
            return nothing, _described(error)
        if len(rows) != len(keys) or not all(sound):
            return nothing, f"the store returned something else: {shown(rows)}"
        return rows, None

    def _write(self, store: ChunkStore) -> None:
        """Writes what is waiting until nothing is; the writer's thread."""
        while True:
            with self._lock:
                pairs = dict(self._waiting)
                if not pairs:
                    self._writer = None
                    self._idle.notify_all()
                    return
            try:
                store.mset(list(pairs.items()))
                reason = None
            except BaseException as error:  # it has no caller who could hear of it
                reason = _described(error)
            with self._lock:
                for key, value in pairs.items():
                    if self._waiting.get(key) is value:
                        del self._waiting[key]
                if reason is None:
                    self._writing.succeeded()
                else:
                    self._writing.failed(reason)
                    self._waiting.clear()


def guard_of(store: ChunkStore) -> StoreGuard:
    """The guard that all of this process share of a store; it goes when the store goes."""
    number = id(store)
    with _lock:
        reference, guard = _by_store.get(number, (lambda: None, None))
        if guard is None or reference() is not store:
            guard = StoreGuard()
            try:
                reference = weakref.ref(store, partial(_drop, _by_store, number))
            except TypeError:  # it cannot be referred to so; a guard for this call must do
                return guard
            _by_store[number] = reference, guard
        return guard


def time_limit(store: ChunkStore) -> float:
    """Seconds that an answer waits for a store."""
    return store.timeout if isinstance(store, BaseChunkStore) else BaseChunkStore.timeout


_ByStore = dict[int, tuple[Callable[[], object], StoreGuard]]


def _drop(guards: _ByStore, number: int, reference: Callable[[], object]) -> None:
    # No lock: this may run in the middle of anything, and another store may have the number now.
    if guards.get(number, (None,))[0] is reference:
        guards.pop(number, None)


def _described(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_lock = OwnLock()
_by_store: _ByStore = {}
_guards: weakref.WeakSet[StoreGuard] = weakref.WeakSet()


def _say_goodbye() -> None:
    until = time.monotonic() + _GOODBYE
    for guard in list(_guards):
        guard.flush(max(until - time.monotonic(), 0.0))


def _begin_anew() -> None:
    for guard in list(_guards):
        guard.forget_threads()


atexit.register(_say_goodbye)
if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=_begin_anew)
