"""One training or evaluation batch and its way through encoder, projector and decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["IGNORED", "Batch", "batch_embeddings", "batch_logits", "batch_vectors"]

#: Label of a position whose loss does not count.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of mixed tokens and chunk embeddings with the tokens to predict.

    Rows are padded on the right, where causal attention hides the padding from all that counts.

    Attributes:
        token_ids: Decoder token at each position, 0 under a chunk embedding; (rows, positions).
        chunk_index: Chunk at each position, -1 under a token; (rows, positions).
        chunk_tokens: Token ids of every chunk of the batch, 0 after a short one; (chunks, k).
        chunk_used: True where ``chunk_tokens`` holds a token; (chunks, k).
        pieces: Encoder token ids, one row an encoder window; (windows, pieces).
        piece_mask: 1 for pieces, 0 for padding; same shape.
        spans: Inclusive span of each chunk in its window, padded with 0; (windows, spans, 2).
        span_index: Where each chunk's span stands in the flattened spans; (chunks,).
        groups: Windows of similar length: first window, the one after the last, pieces.
        labels: Tokens that the last positions predict, or ``IGNORED``; (rows, predicted).
        context_labels: Tokens that the positions before those predict: the text token after a
            token, the first token of what follows a chunk; (rows, positions - predicted). None
            where only ``labels`` count.
        full_ids: The rows without any compression, those that ask a question with the supporting
            passages alone, predicting the same labels at their ends; (rows, any). None where no
            teacher is wanted.
        context_index: For each position of the context, tokens or chunk embeddings, the place in
            the flattened ``full_ids`` of its last token; (rows, context positions). They stand
            right after the first position of a row. None where no context is compared.
        expanded_index: Places in the flattened ``token_ids`` of the context's tokens, (rows,
            expanded tokens), whose predictions can be compared too; None likewise.
        expanded_full_index: The same places in the flattened ``full_ids``; same shape.
        answer_index: Places in the flattened ``labels`` that are not ``IGNORED``, (answers,);
            None where all count.
        full_index: The same places in the flattened ``full_ids``, (answers,).
    """

    token_ids: Tensor
    chunk_index: Tensor
    chunk_tokens: Tensor
    chunk_used: Tensor
    pieces: Tensor
    piece_mask: Tensor
    spans: Tensor
    span_index: Tensor
    groups: tuple[tuple[int, int, int], ...]
    labels: Tensor
    context_labels: Tensor | None = None
    full_ids: Tensor | None = None
    context_index: Tensor | None = None
    expanded_index: Tensor | None = None
    expanded_full_index: Tensor | None = None
    answer_index: Tensor | None = None
    full_index: Tensor | None = None

    @property
    def chunk_places(self) -> Tensor | None:
        """True at chunk embeddings, (rows, positions), bool; None where nothing was encoded."""
        return self.chunk_index >= 0 if len(self.span_index) else None

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on another device."""
        tensors: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def batch_vectors(model: RefragModel, batch: Batch) -> Tensor:
    """Encodes the chunks of a batch, windows of similar length together.

    Returns:
        Chunk vectors, shape (chunks, d_enc), float32.
    """
    encoded = [
        model.encoder(
            batch.pieces[first:after, :length],
            batch.piece_mask[first:after, :length],
            batch.spans[first:after],
        )
        for first, after, length in batch.groups
    ]
    return torch.cat(encoded).flatten(0, 1)[batch.span_index]


def batch_embeddings(model: RefragModel, batch: Batch) -> Tensor:
    """Runs encoder and projector on a batch and puts tokens and chunk embeddings together.

    Args:
        model: The model.
        batch: On the model's device.

    Returns:
        The decoder's input embeddings, shape (rows, positions, d_dec).
    """
    embed = model.decoder.get_input_embeddings()
    inputs: Tensor = embed(batch.token_ids)
    if not len(batch.span_index):
        return inputs
    vectors = batch_vectors(model, batch)
    chunks = model.project(vectors, batch.chunk_tokens, batch.chunk_used).to(inputs.dtype)
    # Under a token any chunk will do. Always the same one would get all their (zero) gradients,
    # which a GPU adds up one after another: a tenth of a step's time (experiments/003).
    anywhere = torch.arange(batch.chunk_index.numel(), device=inputs.device) % len(chunks)
    is_chunk = batch.chunk_index >= 0
    placed = chunks[torch.where(is_chunk, batch.chunk_index, anywhere.view_as(is_chunk))]
    return torch.where(is_chunk.unsqueeze(-1), placed, inputs)


def batch_logits(model: RefragModel, batch: Batch, *, everywhere: bool = False) -> Tensor:
    """Runs encoder, projector and decoder on a batch.

    Args:
        model: The model.
        batch: On the model's device.
        everywhere: Logits of every position instead of the predicted ones alone.

    Returns:
        Logits, shape (rows, predicted or all positions, vocabulary).
    """
    inputs = batch_embeddings(model, batch)
    with model.chunk_mask.using(batch.chunk_places):
        logits: Tensor = model.decoder(
            inputs_embeds=inputs,
            logits_to_keep=0 if everywhere else batch.labels.shape[1],  # 0 keeps all
            use_cache=False,
        ).logits
    return logits
