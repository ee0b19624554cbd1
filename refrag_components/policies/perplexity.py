"""Chunks that surprise the decoder expand first."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch

from refrag_components.policies.base import Policy, PolicyInputs

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["PerplexityPolicy"]

Order = Literal["ascending", "descending"]

_STRIDE = 512  # tokens per forward pass: bounds the memory of the logits, tokens x vocabulary
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
    reads_question: ClassVar[bool] = False

    def __init__(self, model: RefragModel, order: Order = "descending") -> None:
        if order not in get_args(Order):
            msg = f"order must be one of {get_args(Order)}, got {order!r}"
            raise ValueError(msg)
        self._model = model
        self._sign = 1.0 if order == "descending" else -1.0
        self._losses = lru_cache(maxsize=_REMEMBERED)(self._chunk_losses)

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Mean negative log-likelihood of each chunk's tokens in nats, negated if ascending."""
        losses = [
            self._losses(np.asarray(passage.token_ids, np.int64).tobytes(), passage.chunk_size)
            for passage in inputs.passages
        ]
        return np.float32(self._sign) * np.concatenate(losses)

    def _chunk_losses(self, token_ids: bytes, chunk_size: int) -> np.ndarray:
        losses = self._token_losses(np.frombuffer(token_ids, np.int64))
        starts = np.arange(0, len(losses), chunk_size)
        lengths = np.diff(np.append(starts, len(losses)))
        sums = np.add.reduceat(losses, starts) if len(starts) else losses
        return (sums / lengths).astype(np.float32)

    @torch.inference_mode()
    def _token_losses(self, token_ids: np.ndarray) -> np.ndarray:
        """Negative log-likelihood of each token, shape (n,), nats."""
        model = self._model
        stride = min(_STRIDE, model.window - 1)
        losses = [np.zeros(0, np.float32)]
        for start in range(0, len(token_ids), stride):
            # The first token of a window is predicted from the token that opens a layout.
            window = np.append(model.first_token_id, token_ids[start : start + stride])
            ids = torch.from_numpy(window).to(model.device).unsqueeze(0)
            logits = model.decoder(input_ids=ids[:, :-1], use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="none")
            losses.append(loss.cpu().numpy())
        return np.concatenate(losses)
