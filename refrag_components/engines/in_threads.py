"""Streams that block, read in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

__all__ = ["stream_in_threads"]

Item = TypeVar("Item")


async def stream_in_threads(items: Generator[Item]) -> AsyncGenerator[Item]:
    """Yields the items of a stream, each fetched in a thread.

    When this is closed or cancelled, the stream is closed as soon as it has made the item that it
    is working on.
    """
    fetching: asyncio.Task[Item | None] | None = None

    def close(_: object) -> None:
        items.close()

    try:
        while True:
            fetching = asyncio.create_task(asyncio.to_thread(next, items, None))
            item = await asyncio.shield(fetching)
            if item is None:
                return
            yield item
    finally:
        if fetching is None or fetching.done():
            items.close()
        else:
            fetching.add_done_callback(close)
