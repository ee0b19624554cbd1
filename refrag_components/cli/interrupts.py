"""Ctrl-C in a conversation."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interrupts_once"]


class Interrupts:
    """Ctrl-C raises where it is allowed, once; elsewhere it is ignored.

    What is told about an interrupt is thus never interrupted by the next one.
    """

    def __init__(self) -> None:
        self._allowed = False

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Where the first Ctrl-C raises ``KeyboardInterrupt``."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """What is done when the signal comes."""
        if self._allowed:
            self._allowed = False
            signal.default_int_handler(signal_number, frame)


@contextmanager
def interrupts_once() -> Iterator[Interrupts]:
    """Handles Ctrl-C so; a process that ignores it, as one in the background, still does."""
    interrupts, before = Interrupts(), signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
