"""Greedy answers and log-perplexities of given answers, many prompts at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from refrag_components.evaluation.precision import mixed_precision
from refrag_components.evaluation.rows import Row
from refrag_components.modeling.huggingface import cache_argument, end_token_ids

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["Output", "batch_positions", "decode"]

_MOST_ROWS = 2048
_LOGITS = 1 << 14  # answer tokens whose logits, tokens x vocabulary, are held at once
_CHECK_EVERY = 4  # steps between two looks at which rows are done: each look waits for the device


@dataclass(frozen=True)
class Output:
    """What the decoder makes of a row.

    Attributes:
        token_ids: Greedy answer without the token that ended it.
        log_ppl: Mean negative log-likelihood of the expected answer's tokens, nats.
    """

    token_ids: tuple[int, ...]
    log_ppl: float


def batch_positions(model: RefragModel) -> int:
    """Decoder positions of a batch that memory has room for."""
    device = model.device
    if device.type != "cuda":
        return 1 << 13
    config = model.decoder.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    # The cache is held twice for a moment, and activations want room beside it.
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(min(free // 5 // cached, 1 << 19), model.window))


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

    One pass over the prompt serves both, and rows that are the same are read once. On CUDA, or
    with such a decoder, it computes in bfloat16.

    Args:
        model: The model, in evaluation mode.
        chunks: Table of chunk embeddings, shape (chunks, d_dec), on the model's device.
        rows: Prompts.
        max_new_tokens: Longest answer in tokens.
        positions: Most decoder positions per batch; None for what memory has room for.
        progress: Called with the number of rows done after each batch.

    Returns:
        One output per row, in the rows' order.
    """
    ends = torch.tensor(sorted(end_token_ids(model.decoder, model.tokenizer)), device=model.device)
    alike: dict[tuple[bytes, ...], list[int]] = {}
    for i, row in enumerate(rows):
        arrays = (row.token_ids, row.chunk_index, row.answer_ids)
        alike.setdefault(tuple(array.tobytes() for array in arrays), []).append(i)
    groups = list(alike.values())
    outputs: dict[int, Output] = {}
    for batch in _batches([rows[own[0]] for own in groups], positions or batch_positions(model)):
        picked = [rows[groups[i][0]] for i in batch]
        with torch.inference_mode(), mixed_precision(model):
            made = _decode_batch(model, chunks, picked, max_new_tokens, ends)
        for i, output in zip(batch, made, strict=True):
            outputs.update(dict.fromkeys(groups[i], output))
        if progress is not None:
            progress(sum(len(groups[i]) for i in batch))
    return [outputs[i] for i in range(len(rows))]


def _batches(rows: Sequence[Row], positions: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, so that a batch that does not fit shows at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].token_ids))
    batch: list[int] = []
    for i in order:
        longest = len(rows[batch[0]].token_ids) if batch else 0
        count = len(batch) + 1
        if batch and (count > _MOST_ROWS or count * longest > positions):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _slices(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of answers, shorter ones first, so many that padded they have ``most`` tokens."""
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
    state = _State(model, chunks, rows)
    log_ppl = state.answer_log_ppl([row.answer_ids for row in rows])
    answers = state.greedy(max_new_tokens, ends)
    return [Output(ids, value) for ids, value in zip(answers, log_ppl, strict=True)]


class _State:
    """A left-padded batch after its prompts were read."""

    def __init__(self, model: RefragModel, chunks: Tensor, rows: Sequence[Row]) -> None:
        self._decoder = model.decoder
        self._cache_argument = cache_argument(model.decoder)
        self._device = model.device
        lengths = [len(row.token_ids) for row in rows]
        width = max(lengths)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        index = np.full((len(rows), width), -1, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, width - lengths[i] :] = row.token_ids
            index[i, width - lengths[i] :] = row.chunk_index
            mask[i, width - lengths[i] :] = 1
        places = self._put(index)
        embeds = model.decoder.get_input_embeddings()(self._put(ids))
        is_chunk = places >= 0
        embeds[is_chunk] = chunks[places[is_chunk]].to(embeds.dtype)
        self._mask = self._put(mask)
        self._lengths = self._put(np.asarray(lengths))
        self._cache = DynamicCache(config=model.decoder.config)
        with model.places.at(is_chunk):
            self._logits = self._forward(
                self._mask,
                self._cache,
                inputs_embeds=embeds,
                position_ids=(self._mask.cumsum(dim=1) - 1).clamp(min=0),
                logits_to_keep=1,
            )[:, -1]

    def answer_log_ppl(self, answers: Sequence[np.ndarray]) -> list[float]:
        """Mean negative log-likelihood of each expected answer; leaves the state as it was."""
        means: dict[int, float] = {}
        for part in _slices([len(answer) for answer in answers], _LOGITS):
            own = self._log_ppl(self._put(np.asarray(part)), [answers[i] for i in part])
            means.update(zip(part, own, strict=True))
        return [means[i] for i in range(len(answers))]

    def _log_ppl(self, rows: Tensor, answers: Sequence[np.ndarray]) -> list[float]:
        width = max(len(answer) for answer in answers)
        ids = np.zeros((len(answers), width), dtype=np.int64)
        used = np.zeros((len(answers), width), dtype=bool)
        for i, answer in enumerate(answers):
            ids[i, : len(answer)] = answer
            used[i, : len(answer)] = True
        tokens, counted = self._put(ids), self._put(used)
        losses = [_nll(self._logits[rows], tokens[:, 0])]
        if width > 1:
            # Selecting rows puts new tensors into a layer: copies of the layers alone, without
            # what they hold, leave the state as it was.
            cache = copy.copy(self._cache)
            cache.layers = [copy.copy(layer) for layer in self._cache.layers]
            cache.batch_select_indices(rows)
            # Padded on the right, where causal attention hides the padding.
            mask = self._mask[rows]
            mask = torch.cat([mask, mask.new_ones(len(answers), width - 1)], dim=1)
            places = torch.arange(width - 1, device=self._device)
            logits = self._forward(
                mask,
                cache,
                input_ids=tokens[:, :-1],
                position_ids=self._lengths[rows][:, None] + places,
            )
            losses += [_nll(logits[:, j], tokens[:, j + 1]) for j in range(width - 1)]
        nll = torch.stack(losses, dim=1) * counted
        means: list[float] = (nll.sum(dim=1) / counted.sum(dim=1)).tolist()
        return means

    def greedy(self, max_new_tokens: int, ends: Tensor) -> list[tuple[int, ...]]:
        """The likeliest token each time, up to an end token; uses the state up."""
        n = len(self._logits)
        written = torch.full((n, max_new_tokens), -1, dtype=torch.long, device=self._device)
        rows = torch.arange(n, device=self._device)  # which rows are still being written
        done = torch.zeros(n, dtype=torch.bool, device=self._device)
        for step in range(max_new_tokens):
            tokens = self._logits.argmax(dim=-1)
            done = done | torch.isin(tokens, ends)
            written[rows, step] = torch.where(done, -1, tokens)
            if step + 1 == max_new_tokens:
                break
            if step % _CHECK_EVERY == _CHECK_EVERY - 1:
                running = (~done).nonzero().flatten()
                if not len(running):
                    break
                if 2 * len(running) <= len(done):
                    self._keep(running)
                    rows, done, tokens = rows[running], done[running], tokens[running]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], dim=1)
            self._logits = self._forward(
                self._mask,
                self._cache,
                input_ids=tokens[:, None],
                position_ids=(self._lengths + step)[:, None],
            )[:, -1]
        return [tuple(i for i in row if i >= 0) for row in written.tolist()]

    def _keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]

    def _forward(self, mask: Tensor, cache: DynamicCache, **inputs: Any) -> Tensor:
        logits: Tensor = self._decoder(
            attention_mask=mask, use_cache=True, **{self._cache_argument: cache}, **inputs
        ).logits
        return logits

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _nll(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
