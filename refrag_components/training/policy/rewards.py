"""What a choice of chunks is worth: log-perplexity after it, many choices per prompt at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from refrag_components.cached import cached_property
from refrag_components.corpus import IGNORED, Batch, batch_vectors, chunk_table, policy_vectors
from refrag_components.engines.decoder_inputs import Rows, embed_rows
from refrag_components.engines.layout import token_positions

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["EncodedPrompts", "encode_prompts", "expand_rows", "rewards"]


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts with every chunk compressed, encoded once for all choices.

    Attributes:
        model: Frozen.
        batch: Prompts and what follows them, laid out at p = 0, on the model's device.
        token_ids: Token ids under each entry, 0 where unused, (entries, k).
        used: True where ``token_ids`` holds a token, same shape.
        vectors: What policies read of the chunk vectors, by prompt, (prompts, chunks, d_enc), 0
            where padded.
        chunks: Entry in the table of each prompt's chunks, (prompts, chunks).
        present: False for padding, (prompts, chunks).
        encoded: The chunk vectors of each group of passages, if the policies read these.
    """

    model: RefragModel
    batch: Batch
    token_ids: Tensor
    used: Tensor
    vectors: Tensor
    chunks: Tensor
    present: Tensor
    encoded: list[Tensor] | None

    @cached_property
    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """The batch's table of chunk embeddings, (entries, d_dec); made only for rewards."""
        encoded = self.encoded
        if encoded is None:
            encoded = _as_stored(batch_vectors(self.model, self.batch))
        return chunk_table(self.model, self.batch, encoded).to(self.model.dtype)


@torch.no_grad()
def encode_prompts(model: RefragModel, batch: Batch) -> EncodedPrompts:
    """Encodes what policies read of a batch whose rows are laid out at p = 0."""
    by_group = _as_stored(policy_vectors(model, batch))
    flat = torch.cat([vectors.flatten(0, 1) for vectors in by_group])
    token_ids, used = batch.table_tokens
    is_chunk = batch.chunk_index >= 0
    counts = is_chunk.sum(dim=1)
    present = torch.arange(int(counts.max()), device=counts.device) < counts.unsqueeze(1)
    chunks = torch.zeros(present.shape, dtype=torch.long, device=counts.device)
    chunks[present] = batch.chunk_index[is_chunk]
    vectors = flat[chunks] * present.unsqueeze(-1)
    encoded = by_group if model.matcher is None else None
    return EncodedPrompts(model, batch, token_ids, used, vectors, chunks, present, encoded)


def _as_stored(by_group: list[Tensor]) -> list[Tensor]:
    """Rounds vectors to float16, as they are when they are stored."""
    return [vectors.half().float() for vectors in by_group]


def expand_rows(encoded: EncodedPrompts, expanded: Tensor) -> Rows:
    """Puts the tokens of expanded chunks in place of their chunk embeddings.

    Args:
        encoded: Prompts with every chunk compressed.
        expanded: The choices, True for each chunk that expands, (prompts, samples, chunks), bool.

    Returns:
        One row per choice, prompt by prompt; each ends where its last label is predicted.
    """
    batch = encoded.batch
    table, used = encoded.token_ids.cpu().numpy(), encoded.used.cpu().numpy()
    labelled = batch.label_rows.cpu().numpy() != IGNORED
    token_ids: list[np.ndarray] = []
    chunk_index: list[np.ndarray] = []
    for ids, index, labels, choices in zip(
        batch.token_ids.cpu().numpy(),
        batch.chunk_index.cpu().numpy(),
        labelled,
        expanded.cpu().numpy(),
        strict=True,
    ):
        # Padding follows the last label, on the right of the batch's rows.
        end = len(ids) - labels[::-1].argmax()
        ids, index = ids[:end], index[:end]
        is_chunk = index >= 0
        # Each token of the text counts as a chunk that is expanded.
        tokens = np.zeros((end, table.shape[1]), dtype=np.int64)
        tokens[:, 0] = ids
        tokens[is_chunk] = table[index[is_chunk]]
        present = np.zeros(tokens.shape, dtype=bool)
        present[:, 0] = True
        present[is_chunk] = used[index[is_chunk]]
        text, lengths = tokens[present], present.sum(axis=1)
        for choice in choices:
            as_tokens = ~is_chunk
            as_tokens[is_chunk] = choice[: is_chunk.sum()]
            read, at = token_positions(lengths, as_tokens, np.ones_like(lengths), index)
            token_ids.append(text[read])
            chunk_index.append(at[read])
    return Rows(token_ids, chunk_index, encoded.embeddings)


@torch.no_grad()
def rewards(
    model: RefragModel, prompts: EncodedPrompts, expanded: Tensor, *, positions: int
) -> Tensor:
    """Negative log-perplexity of what follows each prompt, for each choice (paper, A.1).

    Args:
        model: Frozen, in evaluation mode.
        prompts: The prompts.
        expanded: The choices, (prompts, samples, chunks), bool.
        positions: Decoder positions per forward pass, about; bounds the memory it takes.

    Returns:
        Minus nats per token, (prompts, samples), float32.
    """
    count, samples = expanded.shape[:2]
    rows = expand_rows(prompts, expanded)
    sizes = [len(row) for row in rows.token_ids]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)  # similar lengths: little padding
    labels = _ending_at_the_last_column(prompts.batch.label_rows)
    result = torch.zeros(len(order), device=expanded.device)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * sizes[order[stop]] <= positions:
            stop += 1
        at_once = order[start:stop]
        result[at_once] = _log_likelihood(
            model,
            Rows(
                [rows.token_ids[i] for i in at_once],
                [rows.chunk_index[i] for i in at_once],
                rows.chunks,
            ),
            labels[[i // samples for i in at_once]],
        )
        start = stop
    return result.view(count, samples)


def _log_likelihood(model: RefragModel, rows: Rows, labels: Tensor) -> Tensor:
    """Mean log-probability of each row's labels, (rows,)."""
    keep = int((labels != IGNORED).any(dim=0).sum())  # they end at the last column
    labels = labels[:, labels.shape[1] - keep :]
    inputs = embed_rows(model, rows.token_ids, rows.chunk_index, rows.chunks)
    # Without padding no mask: plain causal attention is the faster kernel.
    padding = {}
    if inputs.padded:
        padding = {"attention_mask": inputs.attention_mask, "position_ids": inputs.position_ids}
    with model.chunk_mask.using(inputs.chunk_mask):
        logits = model.decoder(
            inputs_embeds=inputs.inputs_embeds, logits_to_keep=keep, use_cache=False, **padding
        ).logits
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    real = (labels != IGNORED).sum(dim=1)
    return -losses.view_as(labels).sum(dim=1) / real


def _ending_at_the_last_column(labels: Tensor) -> Tensor:
    """Moves each row's labels to its right end; nothing is labelled after them."""
    columns = torch.arange(labels.shape[1], device=labels.device)
    last = ((labels != IGNORED) * columns).amax(dim=1, keepdim=True)
    source = columns - (columns[-1] - last)
    return labels.gather(1, source.clamp(min=0)).masked_fill(source < 0, IGNORED)
