"""Calls that may never come back, and how long they are waited for."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Call", "seconds"]


class Call(threading.Thread):
    """Something done in a thread of its own, which nobody has to wait for.

    Attributes:
        result: What came of it; None until it is over.
        error: What it raised, if it did.

    Args:
        work: What to do.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True, name="refrag-store")
        context = contextvars.copy_context()
        self._work = lambda: context.run(work)
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Does it."""
        try:
            self.result = self._work()
        except BaseException as error:  # a client may raise anything; the caller hears of it
            self.error = error


def seconds(value: float | str) -> float:
    """A time limit as given to a store or in its URL.

    Raises:
        ValueError: If it is not a finite number above 0.
    """
    limit = float(value)
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"timeout must be a number of seconds above 0, got {value}")
    return limit
