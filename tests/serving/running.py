"""A server that runs in a thread of this process, at a port that is free."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["running"]

_PATIENCE = 300  # seconds, for a test that fails


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


@contextmanager
def running(app: Any, ending: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The base URL of an application while it runs.

    Args:
        app: The application.
        ending: Called in the server's thread when it begins to end.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=30), ending)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    assert server.ready.wait(_PATIENCE)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(_PATIENCE)
        listening.close()
