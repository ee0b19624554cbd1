"""What gets tokens from vLLM, in this process or from a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams

__all__ = ["TokenSource", "VllmRequest"]


@dataclass(frozen=True, eq=False)
class VllmRequest:
    """What vLLM is asked for with a prompt.

    Attributes:
        sampling: Sampling parameters by vLLM's names.
        schema: JSON schema that the answer has to fit, None for free text.
        salt: Prompts share parts of vLLM's prefix cache with those of the same salt alone.
    """

    sampling: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    salt: str


class TokenSource(Protocol):
    """Runs in the event loop of its engine."""

    @property
    def window(self) -> int:
        """Longest prompt with its answer in positions; known once it has started."""
        ...

    async def start(self) -> None:
        """Starts or reaches vLLM.

        Raises:
            EngineError: If that fails.
        """
        ...

    def check(self, params: SamplingParams) -> None:
        """Refuses what it cannot do.

        Raises:
            SamplingError: If a parameter is of that kind.
        """
        ...

    def tokens(self, layout: Layout, request: VllmRequest) -> AsyncGenerator[Sequence[int]]:
        """Yields the tokens of an answer as they come; closing it ends the decoding.

        Raises:
            RefragError: If vLLM refuses the request or fails.
        """
        ...

    async def likeliest(self, token_ids: np.ndarray) -> tuple[int, float]:
        """The likeliest token after others of which some or all are passed as embeddings.

        Args:
            token_ids: Shape (n,), int64.

        Returns:
            Its id and its log-probability in nats.
        """
        ...

    def close(self) -> None:
        """Ends what ``start`` has started."""
        ...
