"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a server allows; whoever asks for more is told which limit it was.

    Attributes:
        body_bytes: Bytes of a request.
        passages: Passages of a request.
        running: Requests that are answered at the same time.
        waiting: Requests that wait for one of these slots, all clients together.
        seconds: Time for a request, waiting included.
    """

    body_bytes: int = 32 << 20
    passages: int = 512
    running: int = 64
    waiting: int = 512
    seconds: float = 300.0
