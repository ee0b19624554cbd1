"""Segments and choices: tokens and chunk embeddings mixed anywhere, in text order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refrag_components.cached import cached_property
from refrag_components.vectors import ChunkVectors

__all__ = [
    "Layout",
    "PassageSegment",
    "Segment",
    "TextSegment",
    "passage_segments",
    "positions_per_chunk",
    "token_positions",
]


def positions_per_chunk(
    expanded: np.ndarray, lengths: np.ndarray, group: int | np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Counts the decoder positions of chunks; counted nowhere else.

    Args:
        expanded: True where a chunk enters as tokens, shape (n_chunks,), bool.
        lengths: Tokens of each chunk, shape (n_chunks,).
        group: Chunks per chunk embedding, 0 if what does not expand is dropped: one number, or
            one per chunk.
        index: Index of each chunk in its passage, shape (n_chunks,).

    Returns:
        The tokens of an expanded chunk; 1 for the first chunk of a group that shares a chunk
        embedding; 0 for the other chunks of the group and for dropped ones; shape (n_chunks,).
    """
    begins = (np.asarray(group) > 0) & (index % np.maximum(group, 1) == 0)
    positions: np.ndarray = np.where(expanded, lengths, begins)
    return positions


def token_positions(
    lengths: np.ndarray, expanded: np.ndarray, positions: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tells which tokens of chunks have a decoder position, and what is read there.

    Args:
        lengths: Tokens of each chunk, shape (n_chunks,); a text counts as a chunk that expands.
        expanded: True where a chunk enters as tokens, shape (n_chunks,), bool.
        positions: Decoder positions of each chunk, see ``positions_per_chunk``; shape (n_chunks,).
        rows: Row of each chunk in a table of chunk embeddings, any for expanded ones; same shape.

    Returns:
        True for the tokens that have a position, a chunk embedding standing at the first token
        under it, shape (n_tokens,), bool; and the row of the table at each token, -1 for the token
        itself, shape (n_tokens,).
    """
    read = np.repeat(expanded, lengths)
    begins = lengths.cumsum() - lengths
    read[begins[(positions > 0) & ~expanded]] = True
    return read, np.repeat(np.where(expanded, -1, rows), lengths)


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
        rung: Tokens per chunk embedding of what does not expand, a multiple g of the chunk size:
            g neighbouring chunks share one embedding. 0 drops what does not expand. None stands
            for the chunk size.

    Raises:
        ValueError: If there is not one choice per chunk, the rung is not a multiple of the chunk
            size, or some chunks of a group expand and others do not.
    """

    vectors: ChunkVectors
    expanded: np.ndarray
    rung: int | None = None

    def __post_init__(self) -> None:
        """Checks that there is one choice per chunk, and one per group."""
        if self.expanded.shape != (self.vectors.n_chunks,):
            msg = (
                f"expanded must have shape ({self.vectors.n_chunks},), one value per chunk, "
                f"got {self.expanded.shape}"
            )
            raise ValueError(msg)
        k = self.vectors.chunk_size
        if self.rung is None:
            object.__setattr__(self, "rung", k)
        if self.tokens_per_embedding < 0 or self.tokens_per_embedding % k:
            msg = f"the rung must be 0 or a multiple of the chunk size {k}, got {self.rung}"
            raise ValueError(msg)
        if self.group > 1:
            first = np.arange(self.vectors.n_chunks) // self.group * self.group
            if (self.expanded != self.expanded[first]).any():
                msg = f"on rung {self.rung}, {self.group} chunks expand together or not at all"
                raise ValueError(msg)

    @property
    def tokens_per_embedding(self) -> int:
        """The rung; 0 if what does not expand is dropped."""
        return self.rung or 0

    @property
    def group(self) -> int:
        """Chunks per chunk embedding; 0 if what does not expand is dropped."""
        return self.tokens_per_embedding // self.vectors.chunk_size

    @cached_property
    def positions(self) -> np.ndarray:
        """Decoder positions of each chunk, see ``positions_per_chunk``."""
        index = np.arange(self.vectors.n_chunks)
        return positions_per_chunk(self.expanded, self.vectors.chunk_lengths, self.group, index)

    @cached_property
    def n_positions(self) -> int:
        """Decoder positions of the passage."""
        return int(self.positions.sum())

    @cached_property
    def n_expanded(self) -> int:
        """Chunks that enter as tokens."""
        return int(self.expanded.sum())

    @property
    def n_compressed(self) -> int:
        """Chunks that enter within a chunk embedding."""
        return self.vectors.n_chunks - self.n_expanded if self.group else 0


def passage_segments(
    passages: Sequence[ChunkVectors], expanded: np.ndarray, rungs: np.ndarray
) -> list[PassageSegment]:
    """Makes the segments of many passages, and counts the positions of all of them at once.

    Args:
        passages: The passages.
        expanded: True where a chunk enters as tokens, for the chunks of all passages in order.
        rungs: Tokens per chunk embedding of each passage, as in ``PassageSegment``; shape
            (passages,).

    Raises:
        ValueError: As ``PassageSegment``.
    """
    counts = np.array([passage.n_chunks for passage in passages], dtype=np.int64)
    ends = counts.cumsum()
    segments = [
        PassageSegment(passage, expanded[end - count : end], rung)
        for passage, end, count, rung in zip(
            passages, ends.tolist(), counts.tolist(), rungs.tolist(), strict=True
        )
    ]
    if not segments:
        return segments
    groups = np.array([segment.group for segment in segments])
    index = np.arange(len(expanded)) - np.repeat(ends - counts, counts)
    lengths = np.concatenate([passage.chunk_lengths for passage in passages])
    positions = positions_per_chunk(expanded, lengths, np.repeat(groups, counts), index)
    passage = np.repeat(np.arange(len(counts)), counts)
    n_positions, n_expanded = (
        np.bincount(passage, weights, len(counts)).astype(np.int64).tolist()
        for weights in (positions, expanded)
    )
    for i, (segment, end) in enumerate(zip(segments, ends.tolist(), strict=True)):
        vars(segment).update(  # where they would be kept once somebody asks
            positions=positions[end - segment.vectors.n_chunks : end],
            n_positions=n_positions[i],
            n_expanded=n_expanded[i],
        )
    return segments


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
        if isinstance(first, PassageSegment) and not first.expanded[first.positions > 0][0]:
            msg = "a layout must begin with a token; put model.first_token_id before the passage"
            raise ValueError(msg)

    @cached_property
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
        return sum(segment.n_expanded for segment in self.passages)

    @property
    def n_compressed(self) -> int:
        """Chunks that enter within chunk embeddings; the others that do not expand are dropped."""
        return sum(segment.n_compressed for segment in self.passages)

    @property
    def rate(self) -> float:
        """Compression rate: context tokens / context positions; 1.0 without context."""
        return self.context_tokens / self.context_positions if self.context_positions else 1.0
