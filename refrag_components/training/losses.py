"""Losses over a large vocabulary, a slice of the positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refrag_components.corpus import IGNORED

__all__ = ["OutputHead", "SlicedLosses"]

_SLICE = 8192  # positions; their logits over 49,152 tokens take 0.8 GB in bfloat16


class OutputHead:
    """A decoder taken apart into its layers and the matrix that makes logits of their states.

    Logits can then be made of few positions at a time. A decoder that does more than this matrix
    (scales or caps its logits) is left whole: its "states" are its logits.

    Args:
        decoder: Hugging Face causal language model.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._apart = True
        self._apart = self._is_plain()

    def states(self, **inputs: Tensor) -> Tensor:
        """What ``logits`` takes, at every position; (rows, positions, width)."""
        if not self._apart:
            whole: Tensor = self._decoder(**inputs, use_cache=False).logits
            return whole
        layers = self._decoder.base_model
        states: Tensor = layers(**inputs, use_cache=False).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits of any number of states; (..., width) to (..., vocabulary)."""
        if not self._apart:
            return states
        logits: Tensor = self._decoder.get_output_embeddings()(states)
        return logits

    @torch.no_grad()
    def _is_plain(self) -> bool:
        if self._decoder.base_model is self._decoder:
            return False
        ids = torch.arange(4, device=self._decoder.device).unsqueeze(0)
        whole = self._decoder(input_ids=ids, use_cache=False).logits
        return torch.allclose(self.logits(self.states(input_ids=ids)), whole, atol=1e-4, rtol=1e-4)


class SlicedLosses:
    """Cross-entropy and divergence of many positions that never hold all logits at once.

    The logits of a slice are made once more for the backward pass instead of being kept.

    Args:
        head: Makes logits of the student's states.
        teacher: Makes logits of the teacher's states.
    """

    def __init__(self, head: OutputHead, teacher: OutputHead) -> None:
        self._head = head
        self._teacher = teacher
        self._cross_entropy: Callable[[Tensor, Tensor], Tensor] = _cross_entropy
        self._divergence: Callable[[Tensor, Tensor], Tensor] = _divergence

    def compile(self) -> None:
        """Compiles what happens to logits, so that they need no copies in float32."""
        self._cross_entropy = torch.compile(_cross_entropy, dynamic=True)
        self._divergence = torch.compile(_divergence, dynamic=True)

    def cross_entropy(self, states: Tensor, labels: Tensor) -> Tensor:
        """Mean over the labels that count.

        Args:
            states: (n, width).
            labels: Token ids or ``IGNORED``; (n,).
        """

        def summed(states: Tensor, labels: Tensor) -> Tensor:
            return self._cross_entropy(self._head.logits(states), labels)

        total = self._sliced(summed, states, labels)
        return total / (labels != IGNORED).sum().clamp(min=1)

    def divergence(self, states: Tensor, teacher: Tensor) -> Tensor:
        """Mean of KL(teacher || student) over the positions.

        Args:
            states: Of the student, (n, width).
            teacher: Of the teacher, without gradient; same shape.
        """

        def summed(states: Tensor, teacher: Tensor) -> Tensor:
            return self._divergence(self._head.logits(states), self._teacher.logits(teacher))

        return self._sliced(summed, states, teacher) / len(states)

    @staticmethod
    def _sliced(
        loss: Callable[[Tensor, Tensor], Tensor], states: Tensor, compared: Tensor
    ) -> Tensor:
        parts = [
            checkpoint(loss, part, compared_part, use_reentrant=False, preserve_rng_state=False)
            for part, compared_part in zip(
                states.split(_SLICE), compared.split(_SLICE), strict=True
            )
        ]
        return torch.stack(parts).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, reduction="sum"
    )


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    log_p = nn.functional.log_softmax(teacher.float(), dim=-1)
    log_q = nn.functional.log_softmax(student.float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum()
