"""Layouts to decoder inputs: one padded batch of token and chunk embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.layout import Layout, TextSegment

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["DecoderInputs", "embed_layouts"]


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
