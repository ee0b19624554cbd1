"""Greedy answers and log-perplexities of given answers, for many prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_rows
from refrag_components.evaluation.precision import mixed_precision
from refrag_components.evaluation.rows import Row
from refrag_components.modeling.huggingface import end_token_ids

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["Output", "batch_positions", "cache_bytes", "decode"]

_MAX_ROWS = 2048
_LOGITS = 1 << 14  # answer tokens whose logits, tokens x vocabulary, are in memory at once
_CHECK_EVERY = 4  # steps between checks for finished rows, because a check waits for the device


@dataclass(frozen=True)
class Output:
    """The decoder's result for a row.

    Attributes:
        token_ids: Greedy answer, without the end token.
        log_ppl: Mean negative log-likelihood of the expected answer's tokens, nats.
    """

    token_ids: tuple[int, ...]
    log_ppl: float


def cache_bytes(model: RefragModel) -> int:
    """Bytes that one decoder position takes in the key-value cache."""
    config = model.decoder.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def batch_positions(model: RefragModel) -> int:
    """Decoder positions per batch that fit into memory."""
    device = model.device
    if device.type != "cuda":
        return 1 << 13
    # The cache exists twice for a moment, and activations need memory as well.
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(min(free // 5 // cache_bytes(model), 1 << 19), model.window))


def decode(
    model: RefragModel,
    chunks: Tensor,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    positions: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Output]:
    """Answers prompts greedily and measures the expected answers; similar lengths together.

    One pass over the prompt serves both, and equal rows are decoded once. It computes in bfloat16
    on CUDA, or if the decoder was loaded in bfloat16.

    Args:
        model: The model, in evaluation mode.
        chunks: Table of chunk embeddings, shape (chunks, d_dec), on the model's device.
        rows: Prompts.
        max_new_tokens: Longest answer in tokens.
        positions: Maximum number of decoder positions per batch; None for what fits into memory.
        progress: Called with the number of rows done after each batch.

    Returns:
        One output per row, in order.
    """
    ends = torch.tensor(sorted(end_token_ids(model.decoder, model.tokenizer)), device=model.device)
    equal_rows: dict[tuple[bytes, ...], list[int]] = {}
    for i, row in enumerate(rows):
        arrays = (row.token_ids, row.chunk_index, row.answer_ids)
        equal_rows.setdefault(tuple(array.tobytes() for array in arrays), []).append(i)
    groups = list(equal_rows.values())
    outputs: dict[int, Output] = {}
    distinct = [rows[group[0]] for group in groups]
    for batch in _batches(distinct, positions or batch_positions(model)):
        picked = [distinct[i] for i in batch]
        with torch.inference_mode(), mixed_precision(model):
            batch_outputs = _decode_batch(model, chunks, picked, max_new_tokens, ends)
        for i, output in zip(batch, batch_outputs, strict=True):
            outputs.update(dict.fromkeys(groups[i], output))
        if progress is not None:
            progress(sum(len(groups[i]) for i in batch))
    return [outputs[i] for i in range(len(rows))]


def _batches(rows: Sequence[Row], positions: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, so that a batch which does not fit fails at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].token_ids))
    batch: list[int] = []
    for i in order:
        longest = len(rows[batch[0]].token_ids) if batch else 0
        count = len(batch) + 1
        if batch and (count > _MAX_ROWS or count * longest > positions):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _slices(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of answers, shorter ones first, in parts of at most ``most`` padded tokens."""
    part: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if part and (len(part) + 1) * lengths[i] > most:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _decode_batch(
    model: RefragModel, chunks: Tensor, rows: Sequence[Row], max_new_tokens: int, ends: Tensor
) -> list[Output]:
    token_ids, index = [row.token_ids for row in rows], [row.chunk_index for row in rows]
    batch = DecoderBatch(model, embed_rows(model, token_ids, index, chunks))
    log_ppl = _answer_log_ppl(batch, [row.answer_ids for row in rows])
    answers = _greedy(batch, max_new_tokens, ends)
    return [Output(ids, value) for ids, value in zip(answers, log_ppl, strict=True)]


def _answer_log_ppl(batch: DecoderBatch, answers: Sequence[np.ndarray]) -> list[float]:
    """Mean negative log-likelihood of each expected answer; leaves the batch as it was."""
    means: dict[int, float] = {}
    for part in _slices([len(answer) for answer in answers], _LOGITS):
        values = _log_ppl(batch, part, [answers[i] for i in part])
        means.update(zip(part, values, strict=True))
    return [means[i] for i in range(len(answers))]


def _log_ppl(batch: DecoderBatch, part: list[int], answers: Sequence[np.ndarray]) -> list[float]:
    width = max(len(answer) for answer in answers)
    ids = np.zeros((len(answers), width), dtype=np.int64)
    used = np.zeros((len(answers), width), dtype=bool)
    for i, answer in enumerate(answers):
        ids[i, : len(answer)] = answer
        used[i, : len(answer)] = True
    device = batch.logits.device
    tokens, counted = torch.from_numpy(ids).to(device), torch.from_numpy(used).to(device)
    rows = torch.tensor(part, device=device)
    losses = [_nll(batch.logits[rows], tokens[:, 0])]
    if width > 1:
        logits = batch.after(rows, tokens[:, :-1])
        losses += [_nll(logits[:, j], tokens[:, j + 1]) for j in range(width - 1)]
    nll = torch.stack(losses, dim=1) * counted
    means: list[float] = (nll.sum(dim=1) / counted.sum(dim=1)).tolist()
    return means


def _greedy(batch: DecoderBatch, max_new_tokens: int, ends: Tensor) -> list[tuple[int, ...]]:
    """The likeliest token at every step, up to an end token; consumes the batch."""
    n, device = len(batch.logits), batch.logits.device
    written = torch.full((n, max_new_tokens), -1, dtype=torch.long, device=device)
    rows = torch.arange(n, device=device)  # rows of the batch that are still in it
    done = torch.zeros(n, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        tokens = batch.logits.argmax(dim=-1)
        done = done | torch.isin(tokens, ends)
        written[rows, step] = torch.where(done, -1, tokens)
        if step + 1 == max_new_tokens:
            break
        if step % _CHECK_EVERY == _CHECK_EVERY - 1:
            running = (~done).nonzero().flatten()
            if not len(running):
                break
            if 2 * len(running) <= len(done):
                batch.keep(running)
                rows, done, tokens = rows[running], done[running], tokens[running]
        batch.step(tokens)
    return [tuple(i for i in row if i >= 0) for row in written.tolist()]


def _nll(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
