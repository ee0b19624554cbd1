"""Threads that stay for the next piece of work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from refrag_components.forking import OwnLock

__all__ = ["KeptThreads"]

Work = Callable[[], None]


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
        self._waiting: list[SimpleQueue[Work]] = []  # where the threads that wait look for work

    def run(self, work: Work) -> None:
        """Has some work done: by the thread that waits since last, else by a new one."""
        if self._lock.inherited:
            self._waiting = []  # a forked process has none of them
        with self._lock:
            inbox = self._waiting.pop() if self._waiting else None
        if inbox is not None:
            inbox.put(work)
            return
        threading.Thread(target=self._run, args=([work],), name=self._name, daemon=True).start()

    def _run(self, given: list[Work]) -> None:
        """Does work; the first is in a list, for a thread keeps its arguments."""
        inbox: SimpleQueue[Work] = SimpleQueue()
        while True:
            given.pop()()
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
