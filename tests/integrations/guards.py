"""What fails a test if chunk vectors are made or looked up where or when they should not be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from refrag_components.stores.memory import MemoryStore

__all__ = ["NoStore", "needing_a_free_loop", "no_encoding"]


class NoStore(MemoryStore):
    """Must not be asked."""

    def mget(self, keys: Any) -> Any:
        raise AssertionError("a second look-up")


def no_encoding(*_: object, **__: object) -> None:
    """In place of ``RefragModel.encode_passages``."""
    raise AssertionError("a passage was encoded")


def needing_a_free_loop(real: Callable[..., Any], patience: float = 300.0) -> Callable[..., Any]:
    """A function that fails unless the event loop that runs now goes on while it is called.

    Args:
        real: What it does then.
        patience: Seconds that it waits for the event loop.
    """
    loop = asyncio.get_running_loop()

    def needing(*arguments: Any, **options: Any) -> Any:
        goes_on = threading.Event()
        loop.call_soon_threadsafe(goes_on.set)
        assert goes_on.wait(patience), "the event loop is blocked"
        return real(*arguments, **options)

    return needing
