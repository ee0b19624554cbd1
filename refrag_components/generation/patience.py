"""How long a server is waited for."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from refrag_components.engines.sampling import LONGEST, is_duration
from refrag_components.exceptions import ServerError, shown

__all__ = ["Patience"]


@dataclass(frozen=True)
class Patience:
    """Limits of time for a server; what an answer may take in all is its ``timeout``.

    Attributes:
        connect: Seconds until it is reached, and until it has said what it serves.
        read: Seconds for which it may send nothing. An answer that is not streamed is sent when it
            is complete.

    Raises:
        ServerError: If one is not a number of seconds above 0.
    """

    connect: float = 10.0
    read: float = 600.0  # a server limits the time of a request itself

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, seconds in vars(self).items():
            if not is_duration(seconds):
                msg = (
                    f"{name}_timeout must be a number of seconds above 0, at most {LONGEST:g}, "
                    f"got {shown(seconds)}"
                )
                raise ServerError(msg)

    @property
    def at_first(self) -> httpx.Timeout:
        """For what a server answers at once."""
        return httpx.Timeout(float(self.connect))

    def within(self, seconds: float | None) -> httpx.Timeout:
        """For an answer.

        Args:
            seconds: What is left for it, which no wait is longer than; None without limit.
        """
        left = float(LONGEST if seconds is None else seconds)
        connect, read = (min(float(limit), left) for limit in (self.connect, self.read))
        return httpx.Timeout(read, connect=connect)

    def advice(self, error: httpx.HTTPError, *, at_first: bool) -> str:
        """What an error of the network means, and what can be done about it.

        Args:
            error: The error.
            at_first: Whether ``at_first`` was the limit.
        """
        runs = "does `refrag serve` run there?"
        is_late = isinstance(error, httpx.TimeoutException)
        if isinstance(error, httpx.ConnectTimeout) or (is_late and at_first):
            return (
                f"does not answer within {float(self.connect):g} s; {runs} If it is only slow to "
                "reach, set a longer connect_timeout"
            )
        if is_late:
            return (
                f"has sent nothing for {float(self.read):g} s; stream the answer, ask for fewer "
                "tokens (max_tokens), or set a longer read_timeout"
            )
        return f"does not answer ({error!r}); {runs}"
