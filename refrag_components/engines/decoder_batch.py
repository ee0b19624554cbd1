"""Decoding that continues from a batch of prompts, and which rows are in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from refrag_components.engines.decoder_inputs import DecoderInputs
from refrag_components.modeling.decoder_call import DecoderCall
from refrag_components.modeling.huggingface import holds_only_states

if TYPE_CHECKING:
    from refrag_components.engines.static_cache import StaticCache
    from refrag_components.engines.static_caches import StaticCaches
    from refrag_components.modeling import RefragModel

__all__ = ["DecoderBatch"]

_T = TypeVar("_T")

_MOST_UNUSED = 2  # rows of a static cache per row in use; beyond, the others move out


class DecoderBatch:
    """The decoder's state while a batch is decoded: cache, mask, positions and logits.

    Args:
        model: Provides the decoder.
        inputs: The prompts; the constructor runs the decoder on them.
        caches: Lends static caches, in which steps are faster; None to decode without.

    Attributes:
        logits: Scores for each row's next token, shape (rows, vocabulary).
    """

    @torch.inference_mode()
    def __init__(
        self, model: RefragModel, inputs: DecoderInputs, caches: StaticCaches | None = None
    ) -> None:
        self._call = DecoderCall(model.decoder)
        self._caches = caches
        self._static: StaticCache | None = None
        self._steps = 0  # since rows joined or left
        self._cache: Any = DynamicCache(config=model.decoder.config)
        # Without padding no mask is needed, and attention can take its fastest path.
        self._mask = inputs.attention_mask if inputs.padded else None
        self._positions = inputs.position_ids[:, -1] + 1
        self._length = inputs.position_ids.shape[1]
        if len(inputs.position_ids) == 1:  # others are about to be joined by more rows
            found = self._begin(inputs)
            if found is not None:
                self.logits = found
                return
        with model.chunk_mask.using(inputs.chunk_mask):
            self.logits = self._call(
                self._mask,
                self._cache,
                inputs_embeds=inputs.inputs_embeds,
                position_ids=inputs.position_ids,
                logits_to_keep=1,
            )[:, -1]
        if holds_only_states(self._cache):
            self._mask = None

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> None:
        """Appends one token to each row, shape (rows,)."""
        self._steps += 1
        self._enter()
        checking = self._static is not None and self._caches is not None and self._caches.unproven()
        if self._static is not None and not checking:
            found = self._static_step(self._static, tokens)
            if found is not None:
                self.logits = found
                return
        left = self._leave()
        self._mask = _longer(self._mask, 1)
        self.logits = self._call(
            self._mask,
            self._cache,
            input_ids=tokens.unsqueeze(1),
            position_ids=self._positions.unsqueeze(1),
            logits_to_keep=1,
        )[:, -1]
        self._positions = self._positions + 1
        self._length += 1
        if left is not None and checking:
            self._compare(left, tokens)

    @property
    def quick(self) -> bool:
        """Whether the next step keeps the host no longer than it takes to start it."""
        return self._static is not None and self._static.quick

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Drops all rows except those with the given indices, shape (n,), int64."""
        self.logits = self.logits[rows]
        self._mask = None if self._mask is None else self._mask[rows]
        if self._static is not None:
            self._static.keep(rows)
            if self._static.rows <= _MOST_UNUSED * len(rows):
                return
            self._put_back(self._leave())
            return
        self._steps = 0
        self._cache.reorder_cache(rows)  # which layers of every kind know how to do
        self._positions = self._positions[rows]

    @property
    def _layers(self) -> list[Any]:
        return list(self._cache.layers)

    @property
    def length(self) -> int:
        """Positions of the longest row, with the padding before it."""
        return self._static.length if self._static else self._length

    @property
    def can_join(self) -> bool:
        """Whether all of the cache is keys and values that padding can be put in front of."""
        return self._static is not None or all(
            type(layer) is DynamicLayer and layer.is_initialized for layer in self._layers
        )

    @torch.inference_mode()
    def join(self, other: DecoderBatch) -> None:
        """Appends the rows of another batch, which must not be used any longer.

        The shorter batch is padded on the left, as prompts of different lengths are.
        """
        length = max(self.length, other.length)
        left = [batch._leave() for batch in (self, other)]
        masks = [_padded_mask(batch, length) for batch in (self, other)]
        for layer, joining in zip(self._layers, other._layers, strict=True):
            layer.keys = torch.cat([_padded(layer.keys, length), _padded(joining.keys, length)])
            layer.values = torch.cat(
                [_padded(layer.values, length), _padded(joining.values, length)]
            )
        self._positions = torch.cat([self._positions, other._positions])
        self.logits = torch.cat([self.logits, other.logits])
        self._mask = None if all(mask.all() for mask in masks) else torch.cat(masks)
        self._length = length
        self._steps = 0
        for static in left:
            self._put_back(static)

    @torch.inference_mode()
    def trim(self) -> None:
        """Drops the positions that are padding in every row, once the longest row has left."""
        if self._mask is None or self._static is not None or not self.can_join:
            return  # a static cache reads what is in use, and would have to be left
        unused = int(self._mask.any(dim=0).int().argmax())
        if not unused:
            return
        for layer in self._layers:
            layer.keys = layer.keys[:, :, unused:].contiguous()
            layer.values = layer.values[:, :, unused:].contiguous()
        mask = self._mask[:, unused:]
        self._mask = None if mask.all() else mask
        self._length -= unused

    @torch.inference_mode()
    def after(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Scores further tokens; leaves the batch as it was.

        Args:
            rows: Indices of the rows to continue, shape (n,), int64.
            tokens: Their next tokens, shape (n, m), m at least 1; padded on the right, where causal
                attention hides the padding.

        Returns:
            Scores for the token after each of them, shape (n, m, vocabulary).
        """
        static = self._leave()
        cache: Any = copy.copy(self._cache)
        cache.layers = [_copied(layer) for layer in self._layers]
        cache.reorder_cache(rows)
        self._static = static
        mask = None if self._mask is None else self._mask[rows]
        positions = self._positions[rows][:, None]
        # Several recurrent decoders continue rightly by one token only.
        width = 1 if any(map(_is_recurrent, self._layers)) else tokens.shape[1]
        scores = []
        for part in tokens.split(width, dim=1):
            count = part.shape[1]
            mask = _longer(mask, count)
            scores.append(
                self._call(
                    mask,
                    cache,
                    input_ids=part,
                    position_ids=positions + torch.arange(count, device=rows.device),
                )
            )
            positions = positions + count
        return torch.cat(scores, dim=1)

    @torch.inference_mode()
    def close(self) -> None:
        """Gives the static cache back; the batch must not be used any longer."""
        static, self._static = self._static, None
        self._put_back(static)

    def _begin(self, inputs: DecoderInputs) -> Tensor | None:
        """Reads the prompts into a static cache; None if that is not possible."""
        caches = self._caches
        if caches is None:
            return None
        length = inputs.position_ids.shape[1]
        return self._in_static(length, lambda static: static.begin(inputs, caches.agrees))

    def _enter(self) -> None:
        """Moves to a static cache with enough room, unless rows have just joined or left."""
        if self._static is not None and self._static.length < self._static.capacity:
            return
        if self._caches is None or (self._static is None and self._steps < 2):
            return
        if not self.can_join:  # nothing that a static cache could hold
            self._caches = None
            return
        left = self._leave()
        self._in_static(
            self.length, lambda static: static.load(self._layers, self._mask, self._positions)
        )
        if self._static is not None:
            self._cache = DynamicCache(config=self._call.decoder.config)
            self._put_back(left)

    def _in_static(self, length: int, work: Callable[[StaticCache], _T]) -> _T | None:
        """Borrows a static cache and does some work in it; without, if it fails."""
        caches = self._caches
        if caches is None:
            return None
        while (static := caches.take(len(self._positions), length)) is not None:
            try:
                result = work(static)
            except torch.OutOfMemoryError as error:
                error.with_traceback(None)  # its frames hold the cache that did not fit
                del static
                if not caches.free():
                    caches.warn_of_memory()
                    break
            except Exception as error:
                caches.refuse(f"{type(error).__name__}: {error}")
                break
            else:
                self._static = static
                return result
        self._caches = None
        return None

    def _static_step(self, static: StaticCache, tokens: Tensor) -> Tensor | None:
        """Logits after a step in a static cache; None if it fails, and then for good."""
        caches = self._caches
        assert caches is not None
        try:
            return static.step(tokens)
        except torch.OutOfMemoryError:
            caches.warn_of_memory()
        except Exception as error:
            caches.refuse(f"{type(error).__name__}: {error}")
        self._caches = None
        return None

    def _compare(self, static: StaticCache, tokens: Tensor) -> None:
        """Makes a step in a static cache that was made without; goes on there if they agree."""
        found = self._static_step(static, tokens)
        if found is not None and self._caches and self._caches.agrees(found, self.logits):
            self._static = static
            self._cache = DynamicCache(config=self._call.decoder.config)

    def _leave(self) -> StaticCache | None:
        """Moves out of the static cache, if there is one, and returns it.

        The batch still reads it, so it may only be put back once its states have been copied.
        """
        static, self._static = self._static, None
        if static is None:
            return None
        count = len(self.logits)
        self._steps = 0
        self._positions, self._length = static.positions(count), static.length
        if self._mask is not None:
            self._mask = _longer(self._mask, static.length - self._mask.shape[1])
        self._cache = DynamicCache(config=self._call.decoder.config)
        self._cache.layers = []
        for keys, values in static.states(count):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            self._cache.layers.append(layer)
        return static

    def _put_back(self, static: StaticCache | None) -> None:
        if static is not None and self._caches is not None:
            self._caches.put_back(static)


def _is_recurrent(layer: Any) -> bool:
    """Whether a layer of a cache holds a state of fixed size, alone or beside keys and values."""
    return isinstance(layer, LinearAttentionCacheLayerMixin)


def _copied(layer: Any) -> Any:
    """A copy of a cache's layer, so that putting new tensors into it leaves the original alone."""
    copied = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):  # of states, by number
            setattr(copied, name, dict(value))
    return copied


def _longer(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with ``count`` more positions in use; None stays None."""
    return None if mask is None else torch.cat([mask, mask.new_ones(len(mask), count)], dim=1)


def _padded(states: Tensor, length: int) -> Tensor:
    """Keys or values, shape (rows, heads, n, width), with zeros in front up to ``length``."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))


def _padded_mask(batch: DecoderBatch, length: int) -> Tensor:
    mask = batch._mask
    if mask is None:
        mask = batch._positions.new_ones(len(batch._positions), batch.length)
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))
