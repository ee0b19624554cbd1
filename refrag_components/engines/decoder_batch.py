"""A padded batch of token and chunk embeddings, and decoding that continues from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.modeling.huggingface import cache_argument, forward_arguments
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["DecoderBatch", "DecoderInputs", "embed_layouts", "embed_rows"]


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

    Each chunk embedding takes one position; positions are consecutive over the mixed layout.

    Args:
        model: Provides token and chunk embeddings and the device.
        layouts: At least one layout.
    """
    projected: list[ChunkVectors] = []
    rows = [_row(layout, projected) for layout in layouts]
    chunks = model.chunk_embeddings(projected) if projected else None
    return embed_rows(model, [ids for ids, _ in rows], [index for _, index in rows], chunks)


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
    embeds = model.token_embeddings(ids.ravel()).view(*shape, -1)
    used = torch.from_numpy(mask).to(embeds.device)
    chunk_mask = None
    if chunks is not None and (index >= 0).any():
        chunk_mask = torch.from_numpy(index >= 0).to(embeds.device)
        chosen = torch.from_numpy(index[index >= 0]).to(chunks.device)
        embeds[chunk_mask] = chunks[chosen].to(embeds.dtype)
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


def _row(layout: Layout, projected: list[ChunkVectors]) -> tuple[np.ndarray, np.ndarray]:
    """A layout's token ids and chunk indices, as ``embed_rows`` takes them.

    Args:
        layout: The layout.
        projected: Passages whose chunk embeddings make up the table; those of this layout that have
            a compressed chunk are appended.
    """
    tokens: list[np.ndarray] = []
    index: list[np.ndarray] = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            tokens.append(np.asarray(segment.token_ids, dtype=np.int64))
            index.append(np.full(len(segment.token_ids), -1))
            continue
        vectors, k = segment.vectors, segment.vectors.chunk_size
        by_token = np.repeat(segment.expanded, vectors.chunk_lengths)
        first = np.zeros(vectors.n_tokens, dtype=bool)
        first[::k] = True
        is_position = by_token | first  # every token of expanded chunks, one position per other
        tokens.append(np.asarray(vectors.token_ids, dtype=np.int64)[is_position])
        n_projected = sum(passage.n_chunks for passage in projected)
        chunk = n_projected + np.arange(vectors.n_tokens) // k
        index.append(np.where(by_token, -1, chunk)[is_position])
        if not segment.expanded.all():
            projected.append(vectors)
    return np.concatenate(tokens), np.concatenate(index)
