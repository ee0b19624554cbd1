"""Keys and values at fixed addresses, and one token more per row on top of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from refrag_components.engines.static_attention import static_attention
from refrag_components.modeling.decoder_call import DecoderCall
from refrag_components.modeling.fused_layers import fused_layers
from refrag_components.modeling.fused_norms import fused_norms

if TYPE_CHECKING:
    from refrag_components.engines.decoder_inputs import DecoderInputs
    from refrag_components.modeling import RefragModel

__all__ = ["LONGEST_PROMPT", "Record", "StaticCache", "prompt_bucket", "window_bucket"]

#: Turns work whose tensors stay where they are into something that does it faster.
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

#: Prompts up to here are bound by the launches of their kernels, so they get graphs.
LONGEST_PROMPT = 2048


_PATIENCE = 3  # steps that take their time before one is recorded: recording takes as long

# Added to masked scores: far below all others, and far enough above the least float16 and what a
# kernel may multiply it with.
_MASKED = -30_000.0


def window_bucket(length: int) -> int:
    """Positions that a step reads for a given number in use: at most an eighth more, or 255."""
    step = max(256, (1 << (length - 1).bit_length()) // 16)
    return -(-length // step) * step


def prompt_bucket(length: int) -> int:
    """Positions that a prompt of a given length is padded to."""
    step = 64 if length <= 1024 else 128
    return -(-length // step) * step


class _Place:
    """Where the next pass writes and reads, in all layers of a cache.

    Layers refer to it and not to their cache: gigabytes would have to wait for the garbage
    collector if the two referred to each other.

    Args:
        rows: Rows at most.
        capacity: Positions at most.
        device: Where the cache is.

    Attributes:
        rows: As above.
        capacity: As above.
        window: Positions that the next pass reads; 0 for a prompt.
        ends: Where each row's next key goes, shape (rows,), int64.
        row_index: 0, 1, ..., shape (rows,), int64.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.rows, self.capacity = rows, capacity
        self.window = 0
        self.ends = torch.zeros(rows, dtype=torch.int64, device=device)
        self.row_index = torch.arange(rows, device=device)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, shape (rows, heads, capacity, width) each."""

    is_sliding = False

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self._place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserves the memory."""
        rows, capacity = self._place.rows, self._place.capacity
        # Zeros: masked positions are multiplied by zero, which no NaN would survive.
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes a prompt's keys and values, or one more per row; returns those to be read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        place = self._place
        if not place.window:
            n, length = len(key_states), key_states.shape[2]
            self.keys[:n, :, :length] = key_states
            self.values[:n, :, :length] = value_states
            return key_states, value_states
        if place.rows == 1:  # one row's place is one index: the plainer kernel
            self.keys.index_copy_(2, place.ends, key_states)
            self.values.index_copy_(2, place.ends, value_states)
        else:
            self.keys[place.row_index, :, place.ends] = key_states[:, :, 0]
            self.values[place.row_index, :, place.ends] = value_states[:, :, 0]
        return self.keys[:, :, : place.window], self.values[:, :, : place.window]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Positions and offset for which transformers makes a mask, for a prompt."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Positions before the input; positions are always passed, so nobody needs it."""
        return 0

    def get_max_length(self) -> int:
        """Positions that there is room for."""
        return self._place.capacity

    get_max_cache_shape = get_max_length  # before transformers 5.18


class StaticCache:
    """A cache of fixed size in which rows are decoded, by graphs where there are any.

    Args:
        model: Provides the decoder.
        rows: Rows at most.
        capacity: Positions at most.
        record: Records steps and prompts.

    Attributes:
        rows: As above.
        capacity: As above.
    """

    def __init__(
        self,
        model: RefragModel,
        rows: int,
        capacity: int,
        record: Record,
    ) -> None:
        self._model = model
        self._call = DecoderCall(model.decoder)
        self._record = record
        self.rows, self.capacity = rows, capacity
        device = model.device
        self._place = _Place(rows, capacity, device)
        count = model.decoder.config.get_text_config().num_hidden_layers
        self._layers = [_Layer(self._place) for _ in range(count)]
        self._cache = Cache(layers=list(self._layers))
        self._index = torch.arange(capacity, device=device)
        self._starts, self._positions, self._tokens = torch.zeros(
            3, rows, dtype=torch.int64, device=device
        )
        self._longest_prompt = min(LONGEST_PROMPT, capacity, model.window)
        self._prompt = _Prompt(model) if rows == 1 and self._call.can_choose_logits else None
        self._steps: dict[int, Callable[[], Tensor]] = {}
        self._uses: Counter[int] = Counter()
        self._prompts: dict[int, Callable[[], Tensor]] = {}
        self._seen: set[int] = set()  # lengths of prompts
        self._slots: Tensor | None = None  # of the batch's rows; None if they are the first ones
        #: Positions in use, of the longest row.
        self.length = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(
            states.numel() * states.element_size()
            for layer in self._layers
            for states in (layer.keys, layer.values)
            if states is not None
        )

    def begin(self, inputs: DecoderInputs, agrees: Callable[[Tensor, Tensor], bool]) -> Tensor:
        """Reads prompts.

        Args:
            inputs: The prompts.
            agrees: Told of the logits after a recorded prompt, and of those that the decoder gives
                without a record; says whether they are alike.

        Returns:
            The logits after them, shape (rows of the prompts, vocabulary).
        """
        length = inputs.position_ids.shape[1]
        mask = inputs.attention_mask if inputs.padded else None
        self._set(length, mask, inputs.position_ids[:, -1] + 1)
        bucket = prompt_bucket(length)
        if self._prompt is None or bucket > self._longest_prompt:
            return self._plain(inputs, mask)
        if bucket in self._prompts:
            self._prompt.set(inputs)
            return self._prompts[bucket]().clone()
        expected = self._plain(inputs, mask)
        if bucket in self._seen:  # a length that never comes again needs no record
            self._prompt.set(inputs)
            prompt = self._prompt
            recorded = self._record(lambda: self._read(prompt, bucket))
            if agrees(recorded(), expected):
                self._prompts[bucket] = recorded
            else:  # what it has written here is as wrong
                self._plain(inputs, mask)
        self._seen.add(bucket)
        return expected

    def _plain(self, inputs: DecoderInputs, mask: Tensor | None) -> Tensor:
        self._place.window = 0
        with self._model.chunk_mask.using(inputs.chunk_mask):
            return self._call(
                mask,
                self._cache,
                inputs_embeds=inputs.inputs_embeds,
                position_ids=inputs.position_ids,
                logits_to_keep=1,
            )[:, -1]

    def load(self, layers: Sequence[Any], mask: Tensor | None, positions: Tensor) -> None:
        """Takes over what another cache holds.

        Args:
            layers: Its layers, with keys and values of shape (rows, heads, positions, width).
            mask: 1 for positions in use, shape (rows, positions); None if all are.
            positions: Each row's next position, shape (rows,).
        """
        self._place.window = 0
        for static, layer in zip(self._layers, layers, strict=True):
            static.update(layer.keys, layer.values)
        self._set(layers[0].keys.shape[2], mask, positions)

    def _set(self, length: int, mask: Tensor | None, positions: Tensor) -> None:
        count = len(positions)
        self._slots = None
        self.length = length
        self._starts.zero_()
        if mask is not None:  # padding is on the left
            self._starts[:count] = mask.argmax(dim=1)
        self._place.ends.zero_()
        self._place.ends[:count] = length
        self._positions.zero_()
        self._positions[:count] = positions

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows alone; the others are read along for nothing.

        Args:
            rows: Their indices among the rows so far, shape (n,), int64.
        """
        self._slots = rows if self._slots is None else self._slots[rows]
        # The others begin again: they would go on beyond the decoder's last position.
        positions = self._positions[self._slots]
        self._positions.zero_()
        self._positions[self._slots] = positions

    def positions(self, count: int) -> Tensor:
        """The next position of each of the batch's rows, shape (count,)."""
        return self._of_batch(self._positions, count).clone()

    def _of_batch(self, values: Tensor, count: int) -> Tensor:
        return values[:count] if self._slots is None else values[self._slots]

    @property
    def quick(self) -> bool:
        """Whether the next step has been recorded."""
        window = min(window_bucket(self.length + 1), self.capacity)
        return self.length < self.capacity and window in self._steps

    def states(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer up to the longest row; views, if no row has left."""
        found = []
        for layer in self._layers:
            assert layer.keys is not None and layer.values is not None
            found.append(
                (
                    self._of_batch(layer.keys[:, :, : self.length], count),
                    self._of_batch(layer.values[:, :, : self.length], count),
                )
            )
        return found

    def clear(self) -> None:
        """Forgets all: nothing of one prompt, such as a NaN, may reach the next one."""
        held = [each for layer in self._layers for each in (layer.keys, layer.values)]
        states = [each for each in held if each is not None]
        if states:  # in one call: the next caller's preparation and this one share an interpreter
            torch._foreach_zero_(states)

    def step(self, tokens: Tensor) -> Tensor:
        """Appends a token to each row; there must be room for it.

        Args:
            tokens: Of the batch's rows, shape (n,).

        Returns:
            The logits after them, shape (n, vocabulary).
        """
        count = len(tokens)
        if self._slots is None:
            self._tokens[:count] = tokens
        else:
            self._tokens[self._slots] = tokens
        window = min(window_bucket(self.length + 1), self.capacity)
        self._uses[window] += 1
        if window not in self._steps and self._uses[window] > _PATIENCE:
            self._steps[window] = self._record(lambda: self._step(window))
        step = self._steps.get(window)
        logits = self._step(window) if step is None else step()
        self.length += 1
        self._place.ends.add_(1)
        self._positions.add_(1)
        return self._of_batch(logits, count).clone()

    def _step(self, window: int) -> Tensor:
        self._place.window = window
        index = self._index[:window]
        used = (index >= self._starts[:, None]) & (index <= self._place.ends[:, None])
        embeds = self._model.decoder.get_input_embeddings()
        dtype = embeds.weight.dtype
        scores = torch.zeros_like(used, dtype=dtype)
        scores.masked_fill_(~used, _MASKED)
        decoder = self._call.decoder
        with static_attention(decoder, "step"), fused_norms(decoder), fused_layers(decoder):
            return self._call(
                scores[:, None, None],
                self._cache,
                input_ids=self._tokens[:, None],
                position_ids=self._positions[:, None],
                logits_to_keep=1,
            )[:, -1]

    def _read(self, prompt: _Prompt, bucket: int) -> Tensor:
        self._place.window = 0
        chunks = prompt.chunk_mask[:, :bucket]
        decoder = self._call.decoder
        with (
            self._model.chunk_mask.using(chunks),
            static_attention(decoder, "prompt"),
            fused_norms(decoder),
            fused_layers(decoder),
        ):
            return self._call(
                prompt.mask,
                self._cache,
                inputs_embeds=prompt.embeds[:, :bucket],
                position_ids=self._index[None, :bucket],
                logits_to_keep=prompt.last,
            )[:, -1]


class _Prompt:
    """Where a graph finds its prompt: one row, padded on the right, where causality hides it."""

    def __init__(self, model: RefragModel) -> None:
        table = model.decoder.get_input_embeddings().weight
        self.embeds = table.new_zeros(1, LONGEST_PROMPT, table.shape[1])
        self.chunk_mask = torch.zeros(1, LONGEST_PROMPT, dtype=torch.bool, device=table.device)
        self.last = torch.zeros(1, dtype=torch.int64, device=table.device)
        #: Stands for a mask, so that transformers makes none.
        self.mask = table.new_zeros(1, 1, 1, 1)

    def set(self, inputs: DecoderInputs) -> None:
        """Puts a prompt in its place."""
        length = inputs.inputs_embeds.shape[1]
        self.embeds[:, :length] = inputs.inputs_embeds
        self.embeds[:, length:].zero_()
        self.chunk_mask.zero_()
        if inputs.chunk_mask is not None:
            self.chunk_mask[:, :length] = inputs.chunk_mask
        self.last.fill_(length - 1)
