"""A padded batch of token and chunk embeddings, and decoding that continues from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.modeling.huggingface import cache_argument, forward_arguments
from refrag_components.modeling.transfer import joined_on_device

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["DecoderBatch", "DecoderInputs", "Rows", "embed_layouts", "embed_rows", "lay_out_rows"]


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
    chunks = torch.cat(tables) if tables else None
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


class DecoderBatch:
    """The decoder's state while a batch is decoded: cache, mask, positions and logits.

    Args:
        model: Provides the decoder.
        inputs: The prompts; the constructor runs the decoder on them.

    Attributes:
        logits: Scores for each row's next token, shape (rows, vocabulary).
    """

    @torch.inference_mode()
    def __init__(self, model: RefragModel, inputs: DecoderInputs) -> None:
        self._decoder = model.decoder
        self._accepted = forward_arguments(model.decoder)
        self._cache_argument = cache_argument(model.decoder)
        self._cache = DynamicCache(config=model.decoder.config)
        # Without padding no mask is needed, and attention can take its fastest path.
        self._mask = inputs.attention_mask if inputs.padded else None
        self._positions = inputs.position_ids[:, -1] + 1
        with model.chunk_mask.using(inputs.chunk_mask):
            self.logits = self._forward(
                self._mask,
                self._cache,
                inputs_embeds=inputs.inputs_embeds,
                position_ids=inputs.position_ids,
                logits_to_keep=1,
            )[:, -1]

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> None:
        """Appends one token to each row, shape (rows,)."""
        self._mask = _longer(self._mask, 1)
        self.logits = self._forward(
            self._mask,
            self._cache,
            input_ids=tokens.unsqueeze(1),
            position_ids=self._positions.unsqueeze(1),
            logits_to_keep=1,
        )[:, -1]
        self._positions = self._positions + 1

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Drops all rows except those with the given indices, shape (n,), int64."""
        self._cache.batch_select_indices(rows)
        self._positions, self.logits = self._positions[rows], self.logits[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    @property
    def _layers(self) -> list[Any]:
        return list(self._cache.layers)

    @property
    def length(self) -> int:
        """Positions of the longest row, with the padding before it."""
        return int(self._cache.get_seq_length())

    @property
    def can_join(self) -> bool:
        """Whether all of the cache is keys and values that padding can be put in front of."""
        return all(type(layer) is DynamicLayer and layer.is_initialized for layer in self._layers)

    @torch.inference_mode()
    def join(self, other: DecoderBatch) -> None:
        """Appends the rows of another batch, which must not be used any longer.

        The shorter batch is padded on the left, as prompts of different lengths are.
        """
        length = max(self.length, other.length)
        masks = [_padded_mask(batch, length) for batch in (self, other)]
        for layer, joining in zip(self._layers, other._layers, strict=True):
            layer.keys = torch.cat([_padded(layer.keys, length), _padded(joining.keys, length)])
            layer.values = torch.cat(
                [_padded(layer.values, length), _padded(joining.values, length)]
            )
        self._positions = torch.cat([self._positions, other._positions])
        self.logits = torch.cat([self.logits, other.logits])
        self._mask = None if all(mask.all() for mask in masks) else torch.cat(masks)

    @torch.inference_mode()
    def trim(self) -> None:
        """Drops the positions that are padding in every row, once the longest row has left."""
        if self._mask is None or not self.can_join:
            return
        unused = int(self._mask.any(dim=0).int().argmax())
        if not unused:
            return
        for layer in self._layers:
            layer.keys = layer.keys[:, :, unused:].contiguous()
            layer.values = layer.values[:, :, unused:].contiguous()
        mask = self._mask[:, unused:]
        self._mask = None if mask.all() else mask

    @torch.inference_mode()
    def after(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Scores further tokens; leaves the batch as it was.

        Args:
            rows: Indices of the rows to continue, shape (n,), int64.
            tokens: Their next tokens, shape (n, m), m at least 1; padded on the right, where causal
                attention hides the padding.

        Returns:
            Scores for the token after each of them, shape (n, m, vocabulary).
        """
        # Selecting rows puts new tensors into a layer, so shallow copies of the layers leave the
        # cache as it was.
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        cache.batch_select_indices(rows)
        count = tokens.shape[1]
        return self._forward(
            _longer(None if self._mask is None else self._mask[rows], count),
            cache,
            input_ids=tokens,
            position_ids=self._positions[rows][:, None] + torch.arange(count, device=rows.device),
        )

    def _forward(self, mask: Tensor | None, cache: DynamicCache, **inputs: Any) -> Tensor:
        arguments: dict[str, Any] = {
            **inputs,
            "attention_mask": mask,
            self._cache_argument: cache,
            "use_cache": True,
        }
        # As transformers' generate does: not every decoder takes every argument.
        accepted = {name: arguments[name] for name in arguments.keys() & self._accepted}
        logits: Tensor = self._decoder(**accepted).logits
        return logits


def _longer(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with ``count`` more positions in use; None stays None."""
    return None if mask is None else torch.cat([mask, mask.new_ones(len(mask), count)], dim=1)


def _padded(states: Tensor, length: int) -> Tensor:
    """Keys or values, shape (rows, heads, n, width), with zeros in front up to ``length``."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))


def _padded_mask(batch: DecoderBatch, length: int) -> Tensor:
    mask = batch._mask
    if mask is None:
        mask = batch._positions.new_ones(len(batch._positions), batch.length)
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))


def _row(layout: Layout, first_row: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A layout's token ids and chunk indices, as ``embed_rows`` takes them.

    Args:
        layout: The layout.
        first_row: Row of the first chunk embedding of each passage segment that has any, by the
            segment's identity.
    """
    tokens: list[np.ndarray] = []
    index: list[np.ndarray] = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            tokens.append(np.asarray(segment.token_ids, dtype=np.int64))
            index.append(np.full(len(segment.token_ids), -1))
            continue
        vectors, lengths = segment.vectors, segment.vectors.chunk_lengths
        by_token = np.repeat(segment.expanded, lengths)
        is_position = by_token.copy()
        is_position[:: vectors.chunk_size] |= segment.positions > 0
        chunk = np.arange(vectors.n_chunks) // max(segment.group, 1)
        row = np.repeat(first_row.get(id(segment), 0) + chunk, lengths)
        tokens.append(np.asarray(vectors.token_ids, dtype=np.int64)[is_position])
        index.append(np.where(by_token, -1, row)[is_position])
    return np.concatenate(tokens), np.concatenate(index)
