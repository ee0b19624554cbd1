"""Segments and choices to decoder inputs: tokens and chunk embeddings mixed anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = [
    "DecoderInputs",
    "Layout",
    "PassageSegment",
    "Segment",
    "TextSegment",
    "embed_layouts",
]


@dataclass(frozen=True, eq=False)
class TextSegment:
    """Ordinary tokens: template, question, history.

    Attributes:
        token_ids: Decoder token ids, shape (n,), integer.
    """

    token_ids: np.ndarray

    @property
    def n_positions(self) -> int:
        """Decoder positions: one a token."""
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
        """Checks that there is one choice a chunk."""
        if self.expanded.shape != (self.vectors.n_chunks,):
            msg = (
                f"expanded has shape {self.expanded.shape}, "
                f"the passage has {self.vectors.n_chunks} chunks"
            )
            raise ValueError(msg)

    @property
    def n_positions(self) -> int:
        """Decoder positions: the tokens of expanded chunks, one for each other chunk."""
        return int(np.where(self.expanded, self.vectors.chunk_lengths, 1).sum())


Segment = TextSegment | PassageSegment


@dataclass(frozen=True, eq=False)
class Layout:
    """The decoder's input in text order.

    It begins with a token: decoders keep their attention sink in the first position, and a chunk
    embedding there was measured to do harm.

    Attributes:
        segments: Text and passages, in order.

    Raises:
        ValueError: If the first position would be a chunk embedding, or there is no position.
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
        """Decoder positions in all."""
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


@dataclass(frozen=True, eq=False)
class DecoderInputs:
    """A left-padded batch for the decoder.

    Attributes:
        inputs_embeds: Shape (batch, positions, d_dec).
        attention_mask: 1 for positions in use, shape (batch, positions), int64.
        position_ids: 0.. from the first position in use, shape (batch, positions), int64.
        chunk_places: True at chunk embeddings, shape (batch, positions), bool; None where there
            are none.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    chunk_places: Tensor | None


def embed_layouts(model: RefragModel, layouts: Sequence[Layout]) -> DecoderInputs:
    """Turns layouts into decoder inputs.

    Each chunk embedding takes one position; positions are consecutive over the mixed layout.

    Args:
        model: Gives token and chunk embeddings and the device.
        layouts: At least one layout.
    """
    rows = [_embed(model, layout) for layout in layouts]
    length = max(len(row) for row, _ in rows)
    first = rows[0][0]
    inputs = first.new_zeros(len(rows), length, first.shape[-1])
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=inputs.device)
    places = np.zeros((len(rows), length), dtype=bool)
    for i, (row, is_chunk) in enumerate(rows):
        inputs[i, length - len(row) :] = row
        mask[i, length - len(row) :] = 1
        places[i, length - len(row) :] = is_chunk
    return DecoderInputs(
        inputs,
        mask,
        (mask.cumsum(dim=1) - 1).clamp(min=0),
        torch.from_numpy(places).to(inputs.device) if places.any() else None,
    )


def _embed(model: RefragModel, layout: Layout) -> tuple[Tensor, np.ndarray]:
    """Input embeddings of a layout, and where chunk embeddings stand among them."""
    tokens: list[np.ndarray] = []
    is_chunk: list[np.ndarray] = []
    compressed: list[np.ndarray] = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            tokens.append(np.asarray(segment.token_ids, dtype=np.int64))
            is_chunk.append(np.zeros(len(segment.token_ids), dtype=bool))
            continue
        vectors, k = segment.vectors, segment.vectors.chunk_size
        by_token = np.repeat(segment.expanded, vectors.chunk_lengths)
        first = np.zeros(vectors.n_tokens, dtype=bool)
        first[::k] = True
        kept = by_token | first  # an expanded chunk keeps its tokens, any other its first place
        tokens.append(np.asarray(vectors.token_ids, dtype=np.int64)[kept])
        is_chunk.append(~by_token[kept])
        compressed.append(~segment.expanded)
    rows: Tensor = model.token_embeddings(np.concatenate(tokens))
    places = np.concatenate(is_chunk)
    if places.any():
        chunks = model.chunk_embeddings([segment.vectors for segment in layout.passages])
        chosen = torch.from_numpy(np.concatenate(compressed)).to(rows.device)
        rows[torch.from_numpy(places).to(rows.device)] = chunks[chosen].to(rows.dtype)
    return rows, places
