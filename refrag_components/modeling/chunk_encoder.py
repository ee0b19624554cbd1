"""Chunks to chunk vectors, with any Hugging Face encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel

from refrag_components.forking import computing
from refrag_components.modeling.huggingface import position_limit
from refrag_components.text.chunking import ChunkedPassage
from refrag_components.text.tokenization import content_tokenizer
from refrag_components.weights.loading import load_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ChunkEncoder",
    "EncoderWindow",
    "batches",
    "covering_tokens",
    "encode_windows",
    "load_encoder",
    "pad_windows",
    "pool_spans",
    "window_bounds",
]

Window = TypeVar("Window")

# Tokens per forward pass: enough to keep a CPU busy; more only add padding and memory traffic.
_CPU_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class EncoderWindow:
    """One sequence for the encoder and the spans in it that become chunk vectors.

    Attributes:
        input_ids: Encoder token ids with special tokens, shape (n,), int64.
        spans: First and last position of each chunk, inclusive, shape (n_chunks, 2), int64.
    """

    input_ids: np.ndarray
    spans: np.ndarray


def load_encoder(folder: Path) -> Any:
    """Loads an encoder in float32 without its pooler, which nothing here uses."""
    model = load_pretrained(AutoModel, folder)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.eval()


def covering_tokens(ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Finds for each decoder token the encoder token over its last character.

    Args:
        ends: End character of each decoder token (exclusive), shape (n,).
        starts: Start character of each encoder token, ascending, shape (m,).

    Returns:
        Encoder token indices, shape (n,); -1 where no encoder token starts that early.
    """
    return np.searchsorted(starts, ends - 1, side="right") - 1


def pool_spans(states: Tensor, spans: Tensor) -> Tensor:
    """Averages token states over inclusive spans.

    Args:
        states: Token states, shape (batch, tokens, d_enc).
        spans: First and last position of each span, shape (batch, spans, 2).

    Returns:
        Mean states, shape (batch, spans, d_enc), float32.
    """
    sums = nn.functional.pad(states.float().cumsum(dim=1), (0, 0, 1, 0))
    first, last = spans[..., 0], spans[..., 1] + 1
    width = states.shape[-1]
    high = sums.gather(1, last.unsqueeze(-1).expand(-1, -1, width))
    low = sums.gather(1, first.unsqueeze(-1).expand(-1, -1, width))
    return (high - low) / (last - first).unsqueeze(-1)


class ChunkEncoder(nn.Module):
    """A Hugging Face encoder that yields one vector per chunk.

    The encoder reads text through its own tokenizer; characters tie its tokens to the decoder's.

    Args:
        model: Encoder (BERT, RoBERTa, MiniLM, ...), any ``AutoModel`` with token states.
        tokenizer: Its fast tokenizer.
        pooling: "mean" over a chunk's tokens, or "cls" (first position; one chunk per window).
        contextual: True encodes whole passages and pools spans, False encodes each chunk alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Literal["mean", "cls"] = "mean",
        contextual: bool = True,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.contextual = contextual
        self._content = content_tokenizer(tokenizer)
        self.prefix = _first_present(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self.suffix = _first_present(tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.pad_id: int = _first_present(tokenizer.pad_token_id, 0)[0]

    @property
    def width(self) -> int:
        """Width of a chunk vector (d_enc)."""
        return int(self.model.config.hidden_size)

    @property
    def window(self) -> int:
        """Longest sequence in encoder tokens, special tokens included."""
        config = self.model.config
        limit = position_limit(config, self.tokenizer)
        if config.model_type in ("roberta", "xlm-roberta", "camembert"):
            limit -= config.pad_token_id + 1  # RoBERTa counts positions from there
        return min(limit, int(self.tokenizer.model_max_length))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, spans: Tensor) -> Tensor:
        """Encodes a batch of windows.

        Args:
            input_ids: Encoder token ids, shape (batch, tokens).
            attention_mask: 1 for tokens, 0 for padding, same shape.
            spans: Inclusive chunk spans, shape (batch, spans, 2).

        Returns:
            Chunk vectors, shape (batch, spans, d_enc), float32.
        """
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool_spans(states, spans)

    def windows(self, passage: ChunkedPassage) -> list[EncoderWindow]:
        """Cuts a passage into encoder windows, at chunk boundaries only.

        The windows' spans in order are the passage's chunks in order.
        """
        if self.contextual:
            return self._contextual_windows(passage)
        encodings = self._content.encode_batch(passage.chunk_texts(), add_special_tokens=False)
        return [self._alone(np.asarray(encoding.ids, dtype=np.int64)) for encoding in encodings]

    def _alone(self, ids: np.ndarray) -> EncoderWindow:
        ids = ids[: self.room]
        last = 0 if self.pooling == "cls" else len(self.prefix) + len(ids) - 1
        first = min(len(self.prefix), last) if self.pooling == "mean" else 0
        return EncoderWindow(self._with_specials(ids), np.array([[first, max(last, 0)]]))

    def _contextual_windows(self, passage: ChunkedPassage) -> list[EncoderWindow]:
        if not passage.n_chunks:
            return []
        encoding = self._content.encode(passage.text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        starts = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0]
        covering = covering_tokens(passage.offsets[:, 1].astype(np.int64), starts)
        if not len(ids):  # white space only: each chunk gets the first position
            return [
                EncoderWindow(self._with_specials(ids), np.zeros((passage.n_chunks, 2), np.int64))
            ]
        spans = np.maximum(covering[passage.bounds], 0)
        windows = []
        for start, stop, origin, end in window_bounds(spans, self.room):
            local = np.minimum(spans[start:stop], end - 1) - origin + len(self.prefix)
            windows.append(EncoderWindow(self._with_specials(ids[origin:end]), local))
        return windows

    @property
    def room(self) -> int:
        """Encoder tokens of text that fit one window in addition to the special tokens."""
        return self.window - len(self.prefix) - len(self.suffix)

    def _with_specials(self, ids: np.ndarray) -> np.ndarray:
        # At least one position, for tokenizers without special tokens.
        row = np.concatenate([self.prefix, ids, self.suffix]).astype(np.int64)
        return row if len(row) else np.array([self.pad_id], dtype=np.int64)

    @torch.inference_mode()
    def encode(
        self,
        passages: Sequence[ChunkedPassage],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Encodes passages, similar lengths together.

        Args:
            passages: Chunked passages.
            batch_size: Encoder windows per forward pass, at most; see ``batches``.
            progress: Called with the number of windows done after each pass.

        Returns:
            One array of chunk vectors per passage, shape (n_chunks, d_enc), float32.
        """
        return encode_windows(
            [self.windows(passage) for passage in passages],
            lambda window: len(window.input_ids),
            self._encode_batch,
            width=self.width,
            batch_size=batch_size,
            device=next(self.model.parameters()).device,
            progress=progress,
        )

    def _encode_batch(self, windows: Sequence[EncoderWindow]) -> list[np.ndarray]:
        device = next(self.model.parameters()).device
        arrays = pad_windows(windows, self.pad_id)[:3]
        pooled = self(*(torch.from_numpy(array).to(device) for array in arrays)).cpu().numpy()
        return [rows[: len(window.spans)] for rows, window in zip(pooled, windows, strict=True)]


def window_bounds(spans: np.ndarray, room: int) -> Iterator[tuple[int, int, int, int]]:
    """Cuts a passage into encoder windows, at chunk boundaries only.

    Args:
        spans: First and last encoder token of each chunk, inclusive, ascending; (n_chunks, 2).
        room: Encoder tokens that fit a window; a longer chunk is truncated.

    Yields:
        For each window its first chunk, the chunk after its last, its first encoder token and the
        token after its last.
    """
    start = 0
    while start < len(spans):
        origin = int(spans[start, 0])
        fits = int(np.searchsorted(spans[:, 1], origin + room))
        stop = max(fits, start + 1)
        yield start, stop, origin, min(int(spans[stop - 1, 1]) + 1, origin + room)
        start = stop


def encode_windows(
    windows: Sequence[Sequence[Window]],
    length: Callable[[Window], int],
    encode_batch: Callable[[list[Window]], list[np.ndarray]],
    *,
    width: int,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int], None] | None,
) -> list[np.ndarray]:
    """Encodes the windows of passages, those of similar length together.

    Args:
        windows: The windows of each passage, in order.
        length: Returns the number of tokens of a window.
        encode_batch: Returns the chunk vectors of each window of a batch, shape (chunks of the
            window, width).
        width: Width of a chunk vector.
        batch_size: Windows per batch, at most.
        device: Device that computes them.
        progress: Called with the number of windows done after each batch.

    Returns:
        The chunk vectors of each passage, shape (n_chunks, width), float32.
    """
    flat = [(i, window) for i, passage_windows in enumerate(windows) for window in passage_windows]
    vectors: dict[int, np.ndarray] = {}
    for picked in batches([length(window) for _, window in flat], batch_size, device):
        with computing():
            encoded = encode_batch([flat[j][1] for j in picked])
        vectors.update(zip(picked, encoded, strict=True))
        if progress is not None:
            progress(len(picked))
    grouped: list[list[np.ndarray]] = [[] for _ in windows]
    for j, (i, _) in enumerate(flat):
        grouped[i].append(vectors[j])
    empty = np.zeros((0, width), dtype=np.float32)
    return [np.concatenate(rows) if rows else empty for rows in grouped]


def batches(lengths: Sequence[int], batch_size: int, device: torch.device) -> Iterator[list[int]]:
    """Groups sequences of similar lengths, so that little padding is computed.

    Args:
        lengths: Tokens of each sequence.
        batch_size: Sequences per batch, at most; on a CPU fewer if they are long.
        device: Device that will compute them.

    Yields:
        Indices of the sequences of a batch, shorter ones first.
    """
    most = _CPU_TOKENS if device.type == "cpu" else math.inf
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if len(batch) == batch_size or (batch and (len(batch) + 1) * lengths[i] > most):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad_windows(
    windows: Sequence[EncoderWindow], pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pads encoder windows to one shape.

    Args:
        windows: Any number of windows.
        pad_id: Encoder token id to pad with.

    Returns:
        Token ids (windows, tokens); mask, 1 for tokens, same shape; spans (windows, spans, 2)
        padded with 0; and the index of each chunk's span in the flattened spans (chunks,).
    """
    length = max((len(window.input_ids) for window in windows), default=0)
    width = max((len(window.spans) for window in windows), default=0)
    ids = np.full((len(windows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(windows), length), dtype=np.int64)
    spans = np.zeros((len(windows), width, 2), dtype=np.int64)
    index = [np.zeros(0, dtype=np.int64)]
    for row, window in enumerate(windows):
        ids[row, : len(window.input_ids)] = window.input_ids
        mask[row, : len(window.input_ids)] = 1
        spans[row, : len(window.spans)] = window.spans
        index.append(row * width + np.arange(len(window.spans)))
    return ids, mask, spans, np.concatenate(index)


def _first_present(*ids: int | None) -> list[int]:
    return next(([i] for i in ids if i is not None), [])
