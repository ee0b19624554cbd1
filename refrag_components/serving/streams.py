"""Answers to clients that may be gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from refrag_components.exceptions import MissingExtraError

try:
    from starlette.responses import Response
except ImportError as error:
    msg = "the server needs more packages; pip install 'refrag-components[serve]'"
    raise MissingExtraError(msg) from error

__all__ = ["ClientGoneError", "EventStream", "while_connected"]

Result = TypeVar("Result")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGoneError(Exception):
    """The client has closed its connection."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Does the work unless the client goes; then the work is cancelled.

    Raises:
        ClientGoneError: If the client has gone.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events.

    The events are closed when the client goes, even while it is waiting for the next.

    Args:
        events: What follows "data: " in each event.
    """

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._events = events

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Sends the events."""
        with suppress(ClientGoneError, OSError):
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._events):
            async for event in self._events:
                body = f"data: {event}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
