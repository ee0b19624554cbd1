"""What a choice of chunks is worth: log-perplexity after it, many choices a prompt at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from refrag_components.corpus import IGNORED, Batch, batch_vectors, chunk_table, policy_vectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["EncodedPrompts", "Rows", "encode_prompts", "expand_rows", "rewards"]


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts with every chunk compressed, encoded once for all choices.

    Attributes:
        batch: Prompts and what follows them, laid out at p = 0, on the model's device.
        embeddings: The batch's table of chunk embeddings, (entries, d_dec).
        token_ids: Token ids under each entry, 0 where unused, (entries, k).
        used: True where ``token_ids`` holds a token, same shape.
        vectors: What policies read of the chunk vectors, by prompt, (prompts, chunks, d_enc), 0
            where padded.
        chunks: Entry in the table of each prompt's chunks, (prompts, chunks).
        present: False for padding, (prompts, chunks).
    """

    batch: Batch
    embeddings: Tensor
    token_ids: Tensor
    used: Tensor
    vectors: Tensor
    chunks: Tensor
    present: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Decoder rows padded on the left, so that what they predict stands at their ends.

    Attributes:
        token_ids: Token at each position, 0 under a chunk embedding and padding, (rows, n).
        chunk_index: Number in the batch of the chunk at each position, -1 elsewhere, (rows, n).
        used: False for padding, (rows, n).
    """

    token_ids: Tensor
    chunk_index: Tensor
    used: Tensor


@torch.no_grad()
def encode_prompts(model: RefragModel, batch: Batch) -> EncodedPrompts:
    """Encodes and projects the chunks of a batch whose rows are laid out at p = 0.

    Vectors are rounded to float16 as they are when they are stored.
    """
    by_group = [vectors.half().float() for vectors in batch_vectors(model, batch)]
    embeddings = chunk_table(model, batch, by_group).to(model.dtype)
    if model.matcher is not None:
        by_group = [vectors.half().float() for vectors in policy_vectors(model, batch)]
    flat = torch.cat([vectors.flatten(0, 1) for vectors in by_group])
    token_ids, used = batch.table_tokens
    is_chunk = batch.chunk_index >= 0
    counts = is_chunk.sum(dim=1)
    present = torch.arange(int(counts.max()), device=counts.device) < counts.unsqueeze(1)
    chunks = torch.zeros(present.shape, dtype=torch.long, device=counts.device)
    chunks[present] = batch.chunk_index[is_chunk]
    vectors = flat[chunks] * present.unsqueeze(-1)
    return EncodedPrompts(batch, embeddings, token_ids, used, vectors, chunks, present)


def expand_rows(encoded: EncodedPrompts, prompts: Tensor, expanded: Tensor) -> Rows:
    """Puts the tokens of expanded chunks in place of their chunk embeddings.

    Args:
        encoded: Prompts with every chunk compressed.
        prompts: The prompt that each row is made of, (rows,).
        expanded: True for each chunk of that prompt that expands, (rows, chunks), bool.
    """
    batch = encoded.batch
    # Padding follows the last label, on the right of the batch's rows.
    columns = torch.arange(batch.token_ids.shape[1], device=prompts.device)
    labelled = pad(batch.label_rows != IGNORED, (len(columns) - batch.predicted, 0))
    last = (labelled * columns).amax(dim=1)[prompts].unsqueeze(1)
    index = batch.chunk_index[prompts]
    is_chunk = index >= 0
    place = (is_chunk.cumsum(dim=1) - 1).clamp(min=0)
    expands = expanded.gather(1, place) & is_chunk
    lengths = encoded.used.sum(dim=1)[index.clamp(min=0)]
    width = torch.where(expands, lengths, 1) * (columns <= last)

    ends = width.cumsum(dim=1)
    total = ends[:, -1:]
    position = torch.arange(int(total.max()), device=ends.device) - (total.max() - total)
    used = position >= 0
    source = torch.searchsorted(ends, position.clamp(min=0).contiguous(), right=True)
    within = position.clamp(min=0) - (ends - width).gather(1, source)
    chunk = index.gather(1, source)
    as_token = expands.gather(1, source)
    tokens = torch.where(
        as_token,
        encoded.token_ids[chunk.clamp(min=0), within.clamp(max=encoded.used.shape[1] - 1)],
        batch.token_ids[prompts].gather(1, source),
    )
    return Rows(tokens * used, torch.where(used & ~as_token, chunk, -1), used)


@torch.no_grad()
def rewards(
    model: RefragModel, prompts: EncodedPrompts, expanded: Tensor, *, positions: int
) -> Tensor:
    """Negative log-perplexity of what follows each prompt, for each choice (paper, A.1).

    Args:
        model: Frozen, in evaluation mode.
        prompts: The prompts.
        expanded: The choices, (prompts, samples, chunks), bool.
        positions: Decoder positions a forward pass, about; bounds the memory it takes.

    Returns:
        Minus nats a token, (prompts, samples), float32.
    """
    count, samples = expanded.shape[:2]
    owner = torch.arange(count, device=expanded.device).repeat_interleave(samples)
    choices = expanded.flatten(0, 1)
    batch = prompts.batch
    lengths = prompts.used.sum(dim=1)[prompts.chunks]
    text = (batch.chunk_index < 0).sum(dim=1)
    context = torch.where(expanded, lengths.unsqueeze(1), 1) * prompts.present.unsqueeze(1)
    about = text.unsqueeze(1) + context.sum(dim=-1)
    order = about.flatten().argsort()  # similar lengths together: little padding
    sizes = about.flatten()[order].tolist()
    labels = _ending_at_the_last_column(batch.label_rows)
    result = torch.zeros(len(order), device=expanded.device)
    start = 0
    while start < len(sizes):
        stop = start + 1
        while stop < len(sizes) and (stop + 1 - start) * sizes[stop] <= positions:
            stop += 1
        rows = order[start:stop]
        own = labels[owner[rows]]
        inputs = expand_rows(prompts, owner[rows], choices[rows])
        result[rows] = _log_likelihood(model, prompts.embeddings, inputs, own)
        start = stop
    return result.view(count, samples)


def _log_likelihood(model: RefragModel, embeddings: Tensor, rows: Rows, labels: Tensor) -> Tensor:
    """Mean log-probability of each row's labels, (rows,)."""
    keep = int((labels != IGNORED).any(dim=0).sum())  # they end at the last column
    labels = labels[:, labels.shape[1] - keep :]
    inputs = model.decoder.get_input_embeddings()(rows.token_ids)
    placed = embeddings[rows.chunk_index.clamp(min=0)].to(inputs.dtype)
    is_chunk = rows.chunk_index >= 0
    inputs = torch.where(is_chunk.unsqueeze(-1), placed, inputs)
    # Without padding no mask: plain causal attention is the faster kernel.
    padding = {}
    if not rows.used.all():
        padding["attention_mask"] = rows.used.long()
        padding["position_ids"] = (rows.used.cumsum(dim=1) - 1).clamp(min=0)
    with model.chunk_mask.using(is_chunk):
        logits = model.decoder(
            inputs_embeds=inputs, logits_to_keep=keep, use_cache=False, **padding
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
