"""What every request passes before it is read: its token and the limit of its size."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

__all__ = ["Gate", "error_body"]

_OPEN = frozenset({"/health"})

App = Callable[[Any, Any, Any], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Gate:
    """An ASGI application before another, which refuses requests without reading them.

    Args:
        app: The application.
        tokens: Bearer tokens of clients; without any, everybody may ask.
        body_bytes: Largest request.
    """

    def __init__(self, app: App, *, tokens: Collection[str], body_bytes: int) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]
        self._body_bytes = body_bytes

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        """Passes a request on, or answers 401 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in _OPEN and not self._may_ask(headers.get(b"authorization", b"")):
            message = "give a token of this server as api_key, or as `Authorization: Bearer TOKEN`"
            await _refuse(send, 401, error_body(message, "authentication_error", "invalid_api_key"))
            return
        body = await self._read(headers, receive)
        if body is None:
            message = (
                f"the request has more than {self._body_bytes} bytes; send fewer passages, or keys "
                "instead of chunk vectors"
            )
            await _refuse(send, 413, error_body(message, "invalid_request_error", "too_large"))
            return
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> MutableMapping[str, Any]:
            return unread.pop() if unread else await receive()

        await self._app(scope, replayed, send)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The body of a request; None if it is too large."""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._body_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    def _may_ask(self, header: bytes) -> bool:
        scheme, _, token = header.partition(b" ")
        known = [hmac.compare_digest(token.strip(), each) for each in self._tokens]
        return not self._tokens or (scheme.lower() == b"bearer" and any(known))


async def _refuse(send: Send, status: int, body: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
