"""A padded batch of token and chunk embeddings: what a decoder reads of layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.layout import Layout, TextSegment, token_positions
from refrag_components.modeling.transfer import joined_on_device

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["DecoderInputs", "Rows", "embed_layouts", "embed_rows", "lay_out_rows"]


_TRUE, _NONE = np.ones(1, dtype=bool), np.full(1, -1)


@dataclass(frozen=True, eq=False)
class DecoderInputs:
    """A left-padded batch for the decoder.

    Attributes:
        inputs_embeds: Shape (batch, positions, d_dec).
        attention_mask: 1 for positions in use, shape (batch, positions), int64.
        position_ids: From 0 at the first position in use, shape (batch, positions), int64.
        chunk_mask: True at chunk embeddings, shape (batch, positions), bool; None if there are
            none.
        padded: Whether the rows differ in length.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    chunk_mask: Tensor | None
    padded: bool


def embed_layouts(model: RefragModel, layouts: Sequence[Layout]) -> DecoderInputs:
    """Turns layouts into decoder inputs.

    Each chunk embedding takes one position; positions are consecutive over the mixed layout. The
    passages on one rung are projected together.

    Args:
        model: Provides token and chunk embeddings and the device.
        layouts: At least one layout.
    """
    rows = lay_out_rows(model, layouts)
    return embed_rows(model, rows.token_ids, rows.chunk_index, rows.chunks)


@dataclass(frozen=True, eq=False)
class Rows:
    """Layouts as token ids and chunk embeddings.

    Attributes:
        token_ids: Token id at each position of each row, any id at a chunk embedding; shape (n,),
            int64.
        chunk_index: Row of ``chunks`` at each position, -1 at a token; same shapes.
        chunks: Table of chunk embeddings, shape (chunks, d_dec); None if no row has any.
    """

    token_ids: list[np.ndarray]
    chunk_index: list[np.ndarray]
    chunks: Tensor | None


def lay_out_rows(model: RefragModel, layouts: Sequence[Layout]) -> Rows:
    """Makes the chunk embeddings of layouts, and tells what is at each position.

    Args:
        model: Makes chunk embeddings.
        layouts: At least one layout.
    """
    compressed = [s for layout in layouts for s in layout.passages if s.n_compressed]
    compressed.sort(key=lambda segment: segment.tokens_per_embedding)
    tables: list[Tensor] = []
    first_row: dict[int, int] = {}  # of a segment, by its identity
    n_rows = 0
    for rung, same_rung in groupby(compressed, key=lambda segment: segment.tokens_per_embedding):
        segments = list(same_rung)
        tables.append(model.chunk_embeddings([segment.vectors for segment in segments], rung))
        for segment in segments:
            first_row[id(segment)] = n_rows
            n_rows += -(-segment.vectors.n_chunks // segment.group)
    rows = [_row(layout, first_row) for layout in layouts]
    chunks = (tables[0] if len(tables) == 1 else torch.cat(tables)) if tables else None
    return Rows([ids for ids, _ in rows], [index for _, index in rows], chunks)


def embed_rows(
    model: RefragModel,
    token_ids: Sequence[np.ndarray],
    chunk_index: Sequence[np.ndarray],
    chunks: Tensor | None,
) -> DecoderInputs:
    """Turns rows of tokens and chunks into decoder inputs.

    Args:
        model: Provides token embeddings and the device.
        token_ids: Token id at each position of each row, any id at a chunk embedding; shape (n,).
        chunk_index: Row of ``chunks`` at each position, -1 at a token; same shapes.
        chunks: Table of chunk embeddings, shape (chunks, d_dec); None if no row has any.
    """
    lengths = [len(row) for row in token_ids]
    shape = (len(lengths), max(lengths))
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    index = np.full(shape, -1, dtype=np.int64)
    for i, length in enumerate(lengths):
        ids[i, shape[1] - length :] = token_ids[i]
        index[i, shape[1] - length :] = chunk_index[i]
        mask[i, shape[1] - length :] = 1
    # One copy, and nothing that asks the device for a value: the host does not wait for it here.
    device = model.device
    ids_there, used, index_there = joined_on_device([ids, mask, index], device).view(3, *shape)
    embeds: Tensor = model.decoder.get_input_embeddings()(ids_there)
    chunk_mask = None
    if chunks is not None and (index >= 0).any():
        chunk_mask = index_there >= 0
        chosen = chunks[index_there.clamp(min=0)].to(embeds.dtype)
        embeds = torch.where(chunk_mask.unsqueeze(-1), chosen, embeds)
    positions = (used.cumsum(dim=1) - 1).clamp(min=0)
    return DecoderInputs(embeds, used, positions, chunk_mask, padded=min(lengths) < shape[1])


def _row(layout: Layout, first_row: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A layout's token ids and chunk indices, as ``embed_rows`` takes them.

    Args:
        layout: The layout.
        first_row: Row of the first chunk embedding of each passage segment that has any, by the
            segment's identity.
    """
    tokens = [np.zeros(0, dtype=np.int64)]
    # Chunks of all passages, and each text as one that is expanded.
    lengths: list[np.ndarray] = []
    expanded, positions, row = [], [], []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            tokens.append(segment.token_ids)
            lengths.append(np.array([len(segment.token_ids)]))
            expanded.append(_TRUE)
            positions.append(lengths[-1])
            row.append(_NONE)
            continue
        tokens.append(segment.vectors.token_ids)
        lengths.append(segment.vectors.chunk_lengths)
        expanded.append(segment.expanded)
        positions.append(segment.positions)
        chunk = np.arange(segment.vectors.n_chunks) // max(segment.group, 1)
        row.append(first_row.get(id(segment), 0) + chunk)
    read, index = token_positions(
        np.concatenate(lengths),
        np.concatenate(expanded),
        np.concatenate(positions),
        np.concatenate(row),
    )
    return np.concatenate(tokens).astype(np.int64)[read], index[read]
