"""Batches that are decoded step by step, and which rows join and leave between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.row import Row

if TYPE_CHECKING:
    from refrag_components.engines.static_caches import StaticCaches
    from refrag_components.modeling import RefragModel

__all__ = ["Lanes", "alike"]

_SLACK = 64  # positions by which short prompts may differ


def alike(shorter: int, longer: int) -> bool:
    """Whether prompts of two lengths may share a batch: at most about half of it is padding."""
    return longer <= 2 * shorter + _SLACK


class Lanes:
    """Rows in batches of similar lengths; a step gives every row its next token.

    A row joins the batch of its length, or starts one of its own where there is none, where the
    decoder's cache cannot take it in (sliding windows, recurrent states), or where it is to be
    alone. A short answer is
    therefore never decoded at the price of a long prompt next to it. To be used by one thread.

    Args:
        model: Provides the decoder and the embeddings.
        caches: Lends static caches to the batches, except of rows that are to be alone; None to
            decode without.
    """

    def __init__(self, model: RefragModel, caches: StaticCaches | None = None) -> None:
        self._model = model
        self._caches = caches
        self._lanes: list[_Lane] = []

    @property
    def rows(self) -> list[Row]:
        """All rows that are being decoded."""
        return [row for lane in self._lanes for row in lane.rows]

    def start(self, rows: Sequence[Row]) -> None:
        """Runs the decoder on the prompts of rows, which then take part in the steps.

        Rows that cannot be started fail; where several fail together, each is tried alone.
        """
        wanted = [row for row in rows if not row.ended]
        if not wanted:
            return
        error = self._try(wanted)
        if error is not None:
            no_memory = isinstance(error, torch.OutOfMemoryError)
            if no_memory and self._caches is not None and self._caches.free():
                self.start(wanted)
                return
            if len(wanted) == 1:
                wanted[0].fail(error)
                return
            for row in wanted:
                self.start([row])
        self._join()

    def _try(self, rows: Sequence[Row]) -> Exception | None:
        """Runs the decoder on the prompts of rows; returns why it failed."""
        try:
            self._lanes.append(_Lane(self._model, rows, self._caches))
        except torch.OutOfMemoryError as error:
            return error.with_traceback(None)  # its frames hold all that did not fit
        except Exception as error:
            return error
        return None

    def step(self) -> None:
        """Adds a token to each row; rows that have ended leave."""
        for lane in self._lanes:
            lane.step()
        for lane in self._lanes:
            if not lane.rows:
                lane.close()
        self._lanes = [lane for lane in self._lanes if lane.rows]
        self._join()

    def _join(self) -> None:
        # Those that no other can join come first, so that they stand between no two that can.
        by_length = sorted(self._lanes, key=lambda lane: (lane.can_join, lane.length))
        self._lanes = by_length[:1]
        for lane in by_length[1:]:
            last = self._lanes[-1] if self._lanes else None
            can_join = last is not None and last.can_join and lane.can_join
            if last is not None and can_join and alike(last.length, lane.length):
                if not last.take_in(lane):
                    self._lanes.pop()
            else:
                self._lanes.append(lane)


class _Lane:
    """Rows that are decoded in one batch."""

    def __init__(
        self, model: RefragModel, rows: Sequence[Row], caches: StaticCaches | None
    ) -> None:
        with torch.inference_mode():
            inputs = embed_layouts(model, [row.layout for row in rows])
        # What is recorded rounds differently, and whether it is depends on earlier answers.
        alone = any(row.alone for row in rows)
        self._batch = DecoderBatch(model, inputs, None if alone else caches)
        self.rows = list(rows)

    @property
    def length(self) -> int:
        return self._batch.length

    @property
    def can_join(self) -> bool:
        return self._batch.can_join and not any(row.alone for row in self.rows)

    def take_in(self, other: _Lane) -> bool:
        """Adds the rows of another lane; False if that fails, and with it all these rows."""
        self.rows += other.rows
        try:
            self._batch.join(other._batch)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def close(self) -> None:
        self._batch.close()

    def step(self) -> None:
        try:
            self._step()
        except Exception as error:  # such as no memory left for one more position
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            error.with_traceback(None)  # its frames hold this batch, and callers hold the error
        for row in self.rows:
            row.fail(error)
        self.rows = []

    def _step(self) -> None:
        self._keep(i for i, row in enumerate(self.rows) if not row.ended)
        if not self.rows:
            return
        tokens = _sample(self._batch.logits, self.rows)
        on_host = _to_host(tokens)
        # What the device can do by itself goes on while the host turns tokens into text.
        ahead = self._batch.quick and not all(row.is_at_last for row in self.rows)
        if ahead:
            self._batch.step(tokens)
        for row, token_id in zip(self.rows, on_host(), strict=True):
            row.take(token_id)
        kept = self._keep(i for i, row in enumerate(self.rows) if not row.ended)
        if self.rows and not ahead:
            self._batch.step(tokens if kept is None else tokens[kept])

    def _keep(self, indices: Iterable[int]) -> Tensor | None:
        """Drops all rows except some; returns their indices, or None if all of them stay."""
        kept = list(indices)
        if len(kept) == len(self.rows):
            return None
        self.rows = [self.rows[i] for i in kept]
        chosen = torch.tensor(kept, dtype=torch.int64, device=self._batch.logits.device)
        if kept:
            self._batch.keep(chosen)
            self._batch.trim()
        return chosen


def _to_host(tokens: Tensor) -> Callable[[], list[int]]:
    """Copies tokens to the host; the result waits for them, and for nothing that comes later."""
    if tokens.device.type != "cuda":
        return tokens.tolist
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tokens.device))

    def wait() -> list[int]:
        copied.synchronize()  # the only wait for the device in a step
        return list(host.tolist())

    return wait


@torch.inference_mode()
def _sample(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Chooses each row's next token, shape (rows,); a row whose choice fails takes none."""
    tokens = []
    for row, scores in zip(rows, logits, strict=True):
        try:
            tokens.append(row.sampler(scores))
        except Exception as error:
            row.fail(error)
            tokens.append(torch.zeros(1, dtype=torch.int64, device=scores.device))
    return torch.cat(tokens)
