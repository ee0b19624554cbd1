"""The default engine: any Hugging Face decoder, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.base import EngineDelta, EngineOutput, FinishReason
from refrag_components.engines.decoder_batch import DecoderBatch, embed_layouts
from refrag_components.engines.json_schema import JsonGrammars
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.sampling import Sampler, SamplingParams, params_by_row
from refrag_components.engines.text_stream import TextStream
from refrag_components.exceptions import ContextWindowError
from refrag_components.modeling.huggingface import end_token_ids
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Decodes layouts with the model's decoder.

    It can be called from several threads: each call has a separate cache.

    Args:
        model: Provides the decoder, the tokenizer and the embeddings.
        batch_size: Maximum number of layouts to decode together; bounds memory.
    """

    def __init__(self, model: RefragModel, *, batch_size: int = 16) -> None:
        self._model = model
        self._batch_size = batch_size
        self._tokenizer = content_tokenizer(model.tokenizer)
        self._end_ids = end_token_ids(model.decoder, model.tokenizer)
        self._grammars = JsonGrammars(self._tokenizer, self._end_ids)

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        """Answers several layouts, similar lengths together.

        Args:
            layouts: One per prompt.
            params: One for each layout, or one for all; then row i samples with ``seed + i``, so
                that equal prompts get different answers.

        Returns:
            One answer per layout, in order.

        Raises:
            ContextWindowError: If a layout leaves no room for an answer.
            StructuredOutputError: If an answer cannot be made to fit its schema.
        """
        started = time.perf_counter()
        each = params_by_row(params, len(layouts))
        rows = [self._row(*pair) for pair in zip(layouts, each, strict=True)]
        by_length = sorted(rows, key=lambda row: row.layout.n_positions)
        for start in range(0, len(by_length), self._batch_size):
            for _ in self._decode(by_length[start : start + self._batch_size]):
                pass
        return [row.output(started) for row in rows]

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        """Streams the answer to one layout; the texts joined are what ``generate`` returns.

        Raises:
            ContextWindowError: If the layout leaves no room for an answer.
            StructuredOutputError: If the answer cannot be made to fit its schema.
        """
        row = self._row(layout, params)
        return (delta for deltas in self._decode([row]) for delta in deltas)

    def _row(self, layout: Layout, params: SamplingParams) -> _Row:
        room = self._model.window - layout.n_positions
        if room < 1:
            msg = (
                f"the prompt takes {layout.n_positions} positions and the decoder's window is "
                f"{self._model.window}, so there is no room for an answer; expand fewer chunks, "
                "retrieve fewer passages or shorten the prompt"
            )
            raise ContextWindowError(msg)
        ids = torch.from_numpy(_visible_ids(layout)).to(self._model.device)
        schema = params.answer_schema
        constraint = None if schema is None else self._grammars.processor(schema)
        return _Row(
            layout,
            max_tokens=min(params.max_tokens, room),
            sampler=Sampler(params, ids, constraint),
            # Half of a JSON object is useless, so with a schema only the schema ends the answer.
            text=TextStream(
                self._tokenizer,
                () if schema else params.stop,
                skip_special_tokens=params.skip_special_tokens,
            ),
            end_ids=self._end_ids,
        )

    def _decode(self, rows: Sequence[_Row]) -> Iterator[list[EngineDelta]]:
        """Decodes a batch step by step; yields one delta for each unfinished row."""
        with torch.inference_mode():
            inputs = embed_layouts(self._model, [row.layout for row in rows])
        batch = DecoderBatch(self._model, inputs)
        running = list(rows)
        while running:
            tokens = _sample(batch.logits, [row.sampler for row in running])
            token_ids = tokens.tolist()  # the only wait for the device in a step
            yield [row.take(token) for row, token in zip(running, token_ids, strict=True)]
            unfinished = [i for i, row in enumerate(running) if row.finish_reason is None]
            if unfinished and len(unfinished) < len(running):
                indices = torch.tensor(unfinished, device=tokens.device)
                batch.keep(indices)
                tokens = tokens[indices]
            running = [running[i] for i in unfinished]
            if running:
                batch.step(tokens)


@torch.inference_mode()
def _sample(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Chooses each row's next token, shape (rows,)."""
    return torch.cat([sampler(row) for sampler, row in zip(samplers, logits, strict=True)])


class _Row:
    """One answer in the making.

    Attributes:
        layout: The prompt.
        sampler: Chooses the tokens.
        finish_reason: None until the last token has been added.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        max_tokens: int,
        sampler: Sampler,
        text: TextStream,
        end_ids: frozenset[int],
    ) -> None:
        self.layout = layout
        self.sampler = sampler
        self.finish_reason: FinishReason | None = None
        self._max_tokens = max_tokens
        self._stream = text
        self._end_ids = end_ids
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._first_token_at = 0.0

    def take(self, token_id: int) -> EngineDelta:
        """Adds a generated token; sets ``finish_reason`` if it is the last one."""
        if not self._token_ids:
            self._first_token_at = time.perf_counter()
        self._token_ids.append(token_id)
        ended = token_id in self._end_ids
        text = "" if ended else self._stream.push(token_id)
        if ended or self._stream.stopped or len(self._token_ids) == self._max_tokens:
            text += self._stream.finish()  # which may complete a stop string
            self.finish_reason = "stop" if ended or self._stream.stopped else "length"
        self._texts.append(text)
        return EngineDelta(text, (token_id,), self.finish_reason)

    def output(self, started: float) -> EngineOutput:
        """The finished answer; ``started`` is ``time.perf_counter`` at the start of the call."""
        assert self.finish_reason is not None
        return EngineOutput(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=self.finish_reason,
            time_to_first_token=self._first_token_at - started,
            prompt_positions=self.layout.n_positions,
        )


def _visible_ids(layout: Layout) -> np.ndarray:
    """Token ids of the positions that are tokens, in order, shape (n,), int64."""
    ids = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            ids.append(np.asarray(segment.token_ids, np.int64))
        else:
            by_token = np.repeat(segment.expanded, segment.vectors.chunk_lengths)
            ids.append(np.asarray(segment.vectors.token_ids, np.int64)[by_token])
    return np.concatenate(ids)
