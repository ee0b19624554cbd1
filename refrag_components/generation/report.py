"""What happened to one request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from refrag_components.policies.budget import Rest

__all__ = ["Report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What happened to one request, from its passages to its answer.

    Attributes:
        context_tokens: Tokens of all passages, as if nothing were compressed.
        context_positions: Decoder positions that the passages took.
        positions: Decoder positions of the whole prompt.
        rate: Compression rate, context_tokens / context_positions; 1.0 without passages.
        chunks: Chunks of all passages.
        expanded: Chunks that entered as tokens.
        compressed: Chunks that entered within chunk embeddings: one each, or on a coarser rung
            several together.
        dropped: Chunks that did not enter.
        cache_hits: Distinct passages whose chunk vectors came from a store.
        cache_misses: Distinct passages that had to be encoded.
        fallbacks: Misses for which a store had chunk vectors that could not be used.
        policy: Name of the policy that chose.
        budget: Budget that it worked with: a fraction of the chunks (float), a number of decoder
            positions (int) or a time to first token ("40ms").
        rest: What was to become of chunks that do not expand: "compress" or "drop".
        output_tokens: Tokens generated, the end token included; 0 before there is an answer.
        time_to_first_token: Seconds from the request to the first token, store, encoder and
            policy included; None before there is an answer.
        warnings: What did not go as requested, in whole sentences.
    """

    context_tokens: int
    context_positions: int
    positions: int
    rate: float
    chunks: int
    expanded: int
    compressed: int
    dropped: int
    cache_hits: int
    cache_misses: int
    fallbacks: int
    policy: str
    budget: float | int | str
    rest: Rest
    output_tokens: int = 0
    time_to_first_token: float | None = None
    warnings: list[str] = field(default_factory=list)

    def preceded_by(self, warnings: Sequence[str]) -> Report:
        """The same report, with warnings from before the request was made in front."""
        return dataclasses.replace(self, warnings=[*warnings, *self.warnings])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values that JSON can hold."""
        return dataclasses.asdict(self)
