"""Chunks that surprise the decoder expand first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch

from refrag_components.forking import computing
from refrag_components.policies.base import Policy, PolicyInputs

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["PerplexityPolicy", "chunk_losses"]

Order = Literal["ascending", "descending"]

_STRIDE = 512  # tokens that are read as one text
_REMEMBERED = 4096  # passages


class PerplexityPolicy(Policy):
    """Scores a chunk by how badly the decoder predicts its tokens inside the passage.

    The paper's Perplexity-desc and Perplexity-asc. Costs one decoder pass over each passage that
    is new; the last 4096 passages are remembered.

    Args:
        model: Its decoder reads the passages.
        order: "descending" expands surprising chunks first, "ascending" predictable ones.
    """

    name: ClassVar[str] = "perplexity"
    expands_first: ClassVar[str] = "chunks that surprise the decoder"
    reads_question: ClassVar[bool] = False

    def __init__(self, model: RefragModel, order: Order = "descending") -> None:
        if order not in get_args(Order):
            msg = f"order must be one of {get_args(Order)}, got {order!r}"
            raise ValueError(msg)
        self._model = model
        self._sign = 1.0 if order == "descending" else -1.0
        self._losses = lru_cache(maxsize=_REMEMBERED)(self._chunk_losses)

    @classmethod
    def made_for(cls, model: RefragModel) -> PerplexityPolicy:
        """The policy that asks the model's decoder."""
        return cls(model)

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Mean negative log-likelihood of each chunk's tokens in nats, negated if ascending."""
        losses = [
            self._losses(np.asarray(passage.token_ids, np.int64).tobytes(), passage.chunk_size)
            for passage in inputs.passages
        ]
        return np.float32(self._sign) * np.concatenate(losses)

    def _chunk_losses(self, token_ids: bytes, chunk_size: int) -> np.ndarray:
        # One window at a time: what else is read with it would change the last digits.
        tokens = np.frombuffer(token_ids, np.int64)
        return chunk_losses(self._model, [tokens], [chunk_size], at_once=_STRIDE)[0]


@torch.inference_mode()
def chunk_losses(
    model: RefragModel,
    passages: Sequence[np.ndarray],
    chunk_sizes: Sequence[int],
    *,
    at_once: int,
) -> list[np.ndarray]:
    """How badly the decoder predicts the tokens of chunks inside their passages.

    Args:
        model: Its decoder reads the passages.
        passages: Token ids of each passage, shape (n_tokens,).
        chunk_sizes: Tokens per chunk of each passage.
        at_once: Tokens that the decoder reads in one pass, at least 512; their logits, tokens x
            vocabulary, dominate memory.

    Returns:
        Mean negative log-likelihood of each chunk's tokens, one array per passage, shape
        (n_chunks,), nats, float32.
    """
    stride = min(_STRIDE, model.window - 1)
    windows = [
        (i, np.asarray(token_ids[start : start + stride], np.int64))
        for i, token_ids in enumerate(passages)
        for start in range(0, len(token_ids), stride)
    ]
    order = sorted(range(len(windows)), key=lambda j: len(windows[j][1]))
    losses: dict[int, np.ndarray] = {}
    batch: list[int] = []
    for j in order:
        if batch and (len(batch) + 1) * len(windows[j][1]) > at_once:
            losses.update(_token_losses(model, windows, batch))
            batch = []
        batch.append(j)
    if batch:
        losses.update(_token_losses(model, windows, batch))
    by_passage = [[np.zeros(0, np.float32)] for _ in passages]
    for j, (i, _) in enumerate(windows):
        by_passage[i].append(losses[j])
    return [
        _by_chunk(np.concatenate(parts), chunk_size)
        for parts, chunk_size in zip(by_passage, chunk_sizes, strict=True)
    ]


@computing()
def _token_losses(
    model: RefragModel, windows: Sequence[tuple[int, np.ndarray]], batch: Sequence[int]
) -> dict[int, np.ndarray]:
    """Negative log-likelihood of each token of some windows, shape (n,) each, nats."""
    lengths = [len(windows[j][1]) for j in batch]
    # The first token of a window is predicted from the token that opens a layout. Padded on the
    # right, where causal attention hides it.
    ids = np.full((len(batch), 1 + max(lengths)), model.first_token_id, dtype=np.int64)
    for row, j in enumerate(batch):
        ids[row, 1 : 1 + lengths[row]] = windows[j][1]
    tokens = torch.from_numpy(ids).to(model.device)
    logits = model.decoder(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none"
    )
    rows = losses.cpu().numpy()
    return {j: rows[i, : lengths[i]] for i, j in enumerate(batch)}


def _by_chunk(losses: np.ndarray, chunk_size: int) -> np.ndarray:
    if not len(losses):
        return losses
    starts = np.arange(0, len(losses), chunk_size)
    lengths = np.diff(np.append(starts, len(losses)))
    means: np.ndarray = np.add.reduceat(losses, starts) / lengths
    return means.astype(np.float32)
