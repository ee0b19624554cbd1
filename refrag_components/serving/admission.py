"""Who may be answered now: a limited number of slots, given to clients in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["Admission", "CrowdedError"]


class CrowdedError(Exception):
    """As many requests wait as may."""


class Admission:
    """Places for requests. A client with many requests waits for itself, not others for it.

    To be used in one event loop.

    Args:
        running: Number of slots.
        waiting: Requests that may wait for a slot.

    Attributes:
        running: Requests that have a slot.
        waiting: Requests that wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.running = 0
        self.waiting = 0
        self._most_running = running
        self._most_waiting = waiting
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncGenerator[None]:
        """Waits for a slot and holds it.

        Raises:
            CrowdedError: If too many wait already.
        """
        if self.running >= self._most_running:
            await self._wait(client)
        else:
            self.running += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, client: str) -> None:
        if self.waiting >= self._most_waiting:
            raise CrowdedError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot came with the cancellation
                self._leave()
            raise
        finally:
            self.waiting -= 1

    def _leave(self) -> None:
        """Hands a slot on to the client whose turn it is."""
        while self._queues:
            client, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[client] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
