"""An event loop in a thread of its own, for what is asynchronous on behalf of every caller."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

Result = TypeVar("Result")

_PATIENCE = 10.0  # seconds, for tasks that are cancelled


class LoopThread:
    """Runs coroutines for all threads of the process that has made it.

    The thread is a daemon: a program that ends does not wait for answers that nobody reads.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it takes anything; after a fork only the parent has the thread."""
        return os.getpid() == self._process and self._loop.is_running()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Waits for a coroutine's result; not to be called by what runs in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def soon(self, function: Callable[[], object]) -> None:
        """Calls a function in the loop; does nothing if it is not running."""
        if self.is_running:
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancels what runs, and stops the thread."""
        if not self.is_running:
            return
        if threading.current_thread() is self._thread:  # collected there as garbage
            self._loop.stop()
            return
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_PATIENCE)
