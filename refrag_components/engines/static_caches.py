"""The static caches of one engine: which decoders can use them, and who has one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from refrag_components.engines.cuda_graphs import GraphRecorder
from refrag_components.engines.static_attention import PLAIN
from refrag_components.engines.static_cache import Record, StaticCache
from refrag_components.modeling.huggingface import forward_arguments

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["StaticCaches"]

_log = logging.getLogger(__name__)

_ROOM = 256  # positions for an answer; a longer one moves to a larger cache
_SMALLEST = 2048  # positions: prompts of many lengths share one cache, and its graphs
_IDLE = 0.25  # of the device's memory, at most, for caches that nobody uses
_NEEDED = {"attention_mask", "position_ids", "inputs_embeds", "input_ids"}


class StaticCaches:
    """Lends static caches to batches; a batch that gets none decodes without.

    For one thread.

    Args:
        model: Provides the decoder.
        record: Turns work into something that does it faster; CUDA graphs unless given.
    """

    def __init__(self, model: RefragModel, *, record: Record | None = None) -> None:
        self._model = model
        self._record = record
        self._idle: list[StaticCache] = []
        self._reason = _unsuitable(model)
        self._checked = False
        self._said: set[str] = set()
        if self._reason:
            self._say(self._reason)

    @classmethod
    def for_model(cls, model: RefragModel) -> StaticCaches | None:
        """Caches with CUDA graphs; None on a CPU, where nothing waits for launches of kernels."""
        return cls(model) if model.device.type == "cuda" else None

    @property
    def reason(self) -> str | None:
        """Why no cache is lent; None if caches are lent."""
        return self._reason

    def take(self, rows: int, length: int) -> StaticCache | None:
        """Lends a cache for so many rows, of so many positions and some more.

        Returns:
            The cache; None if the decoder cannot use one. Memory is reserved at its first use.
        """
        if self._reason:
            return None
        rows = _up(rows)
        capacity = max(_up(length + _ROOM), _SMALLEST if rows == 1 else 0)
        fitting = [
            cache
            for cache in self._idle
            if cache.rows == rows and capacity <= cache.capacity <= 2 * capacity
        ]
        if fitting:
            cache = min(fitting, key=lambda each: each.capacity)
            self._idle.remove(cache)
            return cache
        if self._record is None:
            self._record = GraphRecorder(self._model.device)
        return StaticCache(self._model, rows, capacity, self._record)

    def put_back(self, cache: StaticCache) -> None:
        """Takes a cache back that nobody reads any longer."""
        if self._reason:
            return
        cache.clear()
        self._idle.append(cache)
        while self._idle and sum(each.n_bytes for each in self._idle) > self._most():
            self._idle.pop(0)

    def free(self) -> bool:
        """Gives up what nobody uses; returns whether there was anything."""
        found = bool(self._idle)
        self._idle.clear()
        if found and self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def agrees(self, logits: Tensor, expected: Tensor) -> bool:
        """Whether the first logits of a static cache are those that the decoder gives without.

        A decoder may treat a cache, a mask or attention in a way of its own; then no cache is lent
        from now on.
        """
        exact = logits.dtype in (torch.float32, torch.float64)
        difference = (logits - expected).float().norm() / expected.float().norm()
        if float(difference) <= (1e-3 if exact else 0.1):
            return True
        self.refuse("its logits differ from those of the decoder's own cache")
        return False

    def unproven(self) -> bool:
        """Whether the step that follows is the first one, which is to be compared."""
        first, self._checked = not self._checked, True
        return first

    def refuse(self, reason: str) -> None:
        """Lends no cache from now on."""
        self._reason = reason
        self._idle.clear()
        self._say(reason)

    def warn_of_memory(self) -> None:
        """Says, once, that a batch goes without a cache because it does not fit."""
        self._say("a batch takes too much memory")

    def _most(self) -> float:
        if self._model.device.type != "cuda":
            return float(2**28)
        return _IDLE * torch.cuda.get_device_properties(self._model.device).total_memory

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            _log.info("%s decodes without graphs: %s", type(self._model.decoder).__name__, reason)


def _up(number: int) -> int:
    """The next of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: at most a quarter more."""
    step = 1 << max(number.bit_length() - 3, 0)
    return -(-number // step) * step


def _unsuitable(model: RefragModel) -> str | None:
    """What speaks against static caches for a decoder, None if nothing does."""
    decoder = model.decoder
    if decoder.config._attn_implementation != PLAIN:
        return f"its attention is {decoder.config._attn_implementation}"
    missing = _NEEDED - forward_arguments(decoder)
    if missing:
        return f"it takes no {', '.join(sorted(missing))}"
    layers = DynamicCache(config=decoder.config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "some of its layers keep more, or less, than all keys and values"
    if len(layers) not in (0, decoder.config.get_text_config().num_hidden_layers):
        return "its layers share keys and values"
    return None
