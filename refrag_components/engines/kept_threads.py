"""Threads that stay for the next piece of work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from weakref import WeakSet

from refrag_components.forking import OwnLock

__all__ = ["KeptThreads"]

Work = Callable[[], None]
_Given = tuple[Work, threading.Event]


class KeptThreads:
    """Runs work in threads that are kept for a while once it is done.

    Libraries keep things for each thread: PyTorch a handle of cuBLAS, and cuDNN's plans of
    attention where that is allowed, which take longer to make than many a prompt.

    The threads are daemons. One that waits refers to nothing that it has worked on.

    Args:
        name: Of the threads.
        patience: Seconds that a thread waits for more work.
    """

    def __init__(self, name: str, *, patience: float = 60.0) -> None:
        self._name = name
        self._patience = patience
        self._lock = OwnLock()
        self._begin()

    def run(self, work: Work) -> None:
        """Has some work done: by the thread that waits since last, else by a new one."""
        self._lock.begin_again(self._begin)  # a forked process has none of the threads
        done = threading.Event()
        with self._lock:
            self._working.add(done)
            inbox = self._waiting.pop() if self._waiting else None
        if inbox is not None:
            inbox.put((work, done))
            return
        given = [(work, done)]
        threading.Thread(target=self._run, args=(given,), name=self._name, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Waits until all work is done, and what it referred to is given up.

        Args:
            seconds: For at most so long.

        Returns:
            Whether that is so.
        """
        if self._lock.inherited:
            return True
        until = time.monotonic() + seconds
        with self._lock:
            working = list(self._working)
        return all([done.wait(max(until - time.monotonic(), 0.0)) for done in working])

    def _begin(self) -> None:
        self._waiting: list[SimpleQueue[_Given]] = []  # where the threads that wait look for work
        self._working: WeakSet[threading.Event] = WeakSet()  # set once the work is done

    def _run(self, given: list[_Given]) -> None:
        """Does work; the first is in a list, for a thread keeps its arguments."""
        inbox: SimpleQueue[_Given] = SimpleQueue()
        while True:
            _do(given)
            with self._lock:
                self._waiting.append(inbox)
            try:
                given.append(inbox.get(timeout=self._patience))
            except Empty:
                with self._lock:
                    if inbox in self._waiting:
                        self._waiting.remove(inbox)
                        return
                given.append(inbox.get())  # which has just been promised


def _do(given: list[_Given]) -> None:
    work, done = given.pop()
    try:
        work()
    finally:
        del work  # which may be the last to hold a model
        done.set()
