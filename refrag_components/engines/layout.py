"""Segments and choices: tokens and chunk embeddings mixed anywhere, in text order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refrag_components.vectors import ChunkVectors

__all__ = ["Layout", "PassageSegment", "Segment", "TextSegment"]


@dataclass(frozen=True, eq=False)
class TextSegment:
    """Ordinary tokens: template, question, history.

    Attributes:
        token_ids: Decoder token ids, shape (n,), integer.
    """

    token_ids: np.ndarray

    @property
    def n_positions(self) -> int:
        """Decoder positions: one per token."""
        return len(self.token_ids)


@dataclass(frozen=True, eq=False)
class PassageSegment:
    """A passage with the policy's choice for each of its chunks.

    Attributes:
        vectors: The passage's chunk vectors and token ids.
        expanded: True where the chunk enters as tokens, shape (n_chunks,), bool.
    """

    vectors: ChunkVectors
    expanded: np.ndarray

    def __post_init__(self) -> None:
        """Checks that there is one choice per chunk."""
        if self.expanded.shape != (self.vectors.n_chunks,):
            msg = (
                f"expanded must have shape ({self.vectors.n_chunks},), one value per chunk, "
                f"got {self.expanded.shape}"
            )
            raise ValueError(msg)

    @property
    def n_positions(self) -> int:
        """Decoder positions: one per token of expanded chunks, one per compressed chunk."""
        return int(np.where(self.expanded, self.vectors.chunk_lengths, 1).sum())


Segment = TextSegment | PassageSegment


@dataclass(frozen=True, eq=False)
class Layout:
    """The decoder's input in text order.

    It begins with a token: decoders keep their attention sink in the first position, and with a
    chunk embedding there they were measured to do worse.

    Attributes:
        segments: Text and passages, in order.

    Raises:
        ValueError: If the first position is a chunk embedding, or there is no position.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        """Checks that a token comes first."""
        first = next((segment for segment in self.segments if segment.n_positions), None)
        if first is None:
            msg = "a layout needs at least one token"
            raise ValueError(msg)
        if isinstance(first, PassageSegment) and not first.expanded[0]:
            msg = "a layout must begin with a token; put model.first_token_id before the passage"
            raise ValueError(msg)

    @property
    def passages(self) -> list[PassageSegment]:
        """The passage segments, in order."""
        return [segment for segment in self.segments if isinstance(segment, PassageSegment)]

    @cached_property
    def n_positions(self) -> int:
        """Total decoder positions."""
        return sum(segment.n_positions for segment in self.segments)

    @cached_property
    def context_tokens(self) -> int:
        """Tokens of all passages, as if nothing were compressed."""
        return sum(segment.vectors.n_tokens for segment in self.passages)

    @cached_property
    def context_positions(self) -> int:
        """Decoder positions that the passages take."""
        return sum(segment.n_positions for segment in self.passages)

    @property
    def n_chunks(self) -> int:
        """Chunks of all passages."""
        return sum(segment.vectors.n_chunks for segment in self.passages)

    @property
    def n_expanded(self) -> int:
        """Chunks that enter as tokens."""
        return sum(int(segment.expanded.sum()) for segment in self.passages)

    @property
    def rate(self) -> float:
        """Compression rate: context tokens / context positions; 1.0 without context."""
        return self.context_tokens / self.context_positions if self.context_positions else 1.0
