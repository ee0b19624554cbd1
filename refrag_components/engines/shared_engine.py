"""What engines have in common that decode the calls of all threads and tasks together."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from refrag_components.engines.base import EngineDelta, EngineOutput
from refrag_components.engines.growing_answer import GrowingAnswer, Listener
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams, params_by_row
from refrag_components.engines.text_stream import TextStream
from refrag_components.exceptions import AnswerTimeoutError, ContextWindowError
from refrag_components.modeling.huggingface import end_token_ids
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["SharedEngine"]

_Event = EngineDelta | BaseException
_Told = TypeVar("_Told")
Growing = TypeVar("Growing", bound=GrowingAnswer)


class SharedEngine(ABC, Generic[Growing]):
    """Answers grow elsewhere, in a thread or a process; callers wait for their own alone.

    Args:
        model: Provides the tokenizer and the tokens that end an answer.
    """

    def __init__(self, model: RefragModel) -> None:
        self._model = model
        self._tokenizer = content_tokenizer(model.tokenizer)
        self._end_ids = end_token_ids(model.decoder, model.tokenizer)

    @property
    def window(self) -> int:
        """Longest prompt with its answer in positions."""
        return self._model.window

    @abstractmethod
    def _begin(self, layout: Layout, params: SamplingParams, **common: Any) -> Growing:
        """Makes an answer; the keywords are those of ``GrowingAnswer``."""

    @abstractmethod
    def _submit(self, answers: Sequence[Growing]) -> None:
        """Has the answers of one call decoded; returns at once."""

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        """Answers several layouts, see ``Engine.generate``; the shortest ``timeout`` is for all."""
        started = time.perf_counter()
        each = params_by_row(params, len(layouts))
        ended: SimpleQueue[_Answer] = SimpleQueue()
        answers = [_Answer(layout, started, ended) for layout in layouts]
        growing = [
            self._row(answer.layout, row_params, answer)
            for answer, row_params in zip(answers, each, strict=True)
        ]
        deadline = _deadline(each)
        self._submit(growing)
        try:
            for _ in growing:
                if (error := _next(ended, deadline).error) is not None:
                    raise error
        finally:
            for answer_growing in growing:
                answer_growing.withdraw()
        return [answer.output() for answer in answers]

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        """Streams the answer to one layout, see ``Engine.stream``."""
        events: SimpleQueue[_Event] = SimpleQueue()
        growing = self._row(layout, params, events.put)

        def deltas() -> Generator[EngineDelta]:
            deadline = _deadline([params])
            self._submit([growing])
            try:
                while True:
                    delta = _delta(_next(events, deadline))
                    yield delta
                    if delta.finish_reason is not None:
                        return
            finally:
                growing.withdraw()

        return deltas()

    def astream(self, layout: Layout, params: SamplingParams) -> AsyncGenerator[EngineDelta]:
        """As ``stream``, without a thread of its own and without blocking the event loop."""
        events: asyncio.Queue[_Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: _Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        growing = self._row(layout, params, tell)

        async def deltas() -> AsyncGenerator[EngineDelta]:
            deadline = _deadline([params])
            self._submit([growing])
            try:
                while True:
                    delta = _delta(await _anext(events, deadline))
                    yield delta
                    if delta.finish_reason is not None:
                        return
            finally:
                growing.withdraw()

        return deltas()

    def _row(self, layout: Layout, params: SamplingParams, listener: Listener) -> Growing:
        room = self.window - layout.n_positions
        if room < 1:
            msg = (
                f"the prompt takes {layout.n_positions} positions and the decoder's window is "
                f"{self.window}, so there is no room for an answer; expand fewer chunks, "
                "retrieve fewer passages or shorten the prompt"
            )
            raise ContextWindowError(msg)
        # Half of a JSON object is useless, so with a schema only the schema ends the answer.
        stop = () if params.answer_schema else params.stop
        return self._begin(
            layout,
            params,
            max_tokens=min(params.max_tokens, room),
            text=TextStream(self._tokenizer, stop, skip_special_tokens=params.skip_special_tokens),
            end_ids=self._end_ids,
            listener=listener,
        )


class _Answer:
    """Collects the deltas of one answer; reports itself when there are no more."""

    def __init__(self, layout: Layout, started: float, ended: SimpleQueue[_Answer]) -> None:
        self.layout = layout
        self.error: BaseException | None = None
        self._started = started
        self._ended = ended
        self._deltas: list[EngineDelta] = []
        self._first_token_at = 0.0

    def __call__(self, event: _Event) -> None:
        if isinstance(event, BaseException):
            self.error = event
            self._ended.put(self)
            return
        if not self._deltas:
            self._first_token_at = time.perf_counter()
        self._deltas.append(event)
        if event.finish_reason is not None:
            self._ended.put(self)

    def output(self) -> EngineOutput:
        reason = self._deltas[-1].finish_reason
        assert reason is not None
        return EngineOutput(
            text="".join(delta.text for delta in self._deltas),
            token_ids=tuple(i for delta in self._deltas for i in delta.token_ids),
            finish_reason=reason,
            time_to_first_token=self._first_token_at - self._started,
            prompt_positions=self.layout.n_positions,
            logprobs=tuple(told for delta in self._deltas for told in delta.logprobs),
        )


def _deadline(params: Sequence[SamplingParams]) -> float | None:
    """When the first of some answers has to be complete, by ``time.monotonic``."""
    limits = [float(each.timeout) for each in params if each.timeout is not None]
    return time.monotonic() + min(limits) if limits else None


def _next(events: SimpleQueue[_Told], deadline: float | None) -> _Told:
    try:
        return events.get(timeout=_left(deadline))
    except Empty:
        raise AnswerTimeoutError from None


async def _anext(events: asyncio.Queue[_Event], deadline: float | None) -> _Event:
    if not events.empty():
        return events.get_nowait()
    try:
        return await asyncio.wait_for(events.get(), _left(deadline))
    except TimeoutError:
        raise AnswerTimeoutError from None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _delta(event: _Event) -> EngineDelta:
    if isinstance(event, BaseException):
        raise event
    return event
