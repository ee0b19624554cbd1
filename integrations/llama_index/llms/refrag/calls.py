"""One call of the LLM: a request that is answered at once, streamed, or in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LogProb

from llama_index.llms.refrag.tools import SaidSoFar
from refrag_components.engines import SamplingParams, TokenLogprob
from refrag_components.engines.json_schema import check_complete
from refrag_components.generation.openai_logprobs import utf8
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Answer, AnswerDelta, Answering, Request
from refrag_components.generation.tools import AnswerForm, AnswerParts

__all__ = ["Call", "Reply"]


@dataclass(frozen=True)
class Reply:
    """An answer, or as much of it as there is so far.

    Attributes:
        message: All of it so far.
        delta: What was added last to its text.
        logprobs: For each token so far, its own and those of the likeliest others; None if they
            were not asked for.
        raw: What the answer says about itself; None before it is complete.
    """

    message: ChatMessage
    delta: str
    logprobs: list[list[LogProb]] | None = None
    raw: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        return self.message.content or ""


@dataclass(frozen=True)
class Call:
    """A request that is ready to be answered.

    Attributes:
        generator: What answers.
        request: The request.
        params: How tokens are drawn.
        model: Name of the checkpoint.
        warnings: About texts that claimed to be a passage and could not be resolved.
        form: What the answer looks like.
    """

    generator: Answering
    request: Request | RemoteRequest
    params: SamplingParams
    model: str
    warnings: Sequence[str]
    form: AnswerForm

    def reply(self) -> Reply:
        """Answers.

        Raises:
            StructuredOutputError: If the answer was cut off before its JSON was complete.
        """
        (answer,) = self.generator.generate([self.request], self.params)
        return self._reply(answer)

    async def areply(self) -> Reply:
        """As ``reply``, without blocking the event loop; a cancelled task ends the decoding."""
        return self._reply(await self.generator.agenerate(self.request, self.params))

    def _reply(self, answer: Answer) -> Reply:
        delta = AnswerDelta(answer.text, answer.finish_reason, answer.report, answer.logprobs)
        (reply,) = _Growing(self).replies(delta)
        return reply

    def replies(self) -> Generator[Reply]:
        """Streams the answer; errors of the request are raised immediately."""
        deltas = self.generator.stream(self.request, self.params)

        def grow() -> Generator[Reply]:
            growing = _Growing(self)
            with closing(deltas):
                for delta in deltas:
                    yield from growing.replies(delta)

        return grow()

    async def areplies(self) -> AsyncGenerator[Reply]:
        """As ``replies``, without blocking the event loop."""
        deltas = await self.generator.astream(self.request, self.params)

        async def grow() -> AsyncGenerator[Reply]:
            growing = _Growing(self)
            async with aclosing(deltas):
                async for delta in deltas:
                    for reply in growing.replies(delta):
                        yield reply

        return grow()


class _Growing:
    """The replies that an answer makes as it grows."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._parts = AnswerParts(call.form)
        self._said = SaidSoFar()
        self._generated = "" if call.params.answer_schema is None else call.form.begun
        self._logprobs: list[list[LogProb]] = []

    def replies(self, delta: AnswerDelta) -> Generator[Reply]:
        """The reply that a delta makes; none while none of it is certain.

        Raises:
            StructuredOutputError: If the answer was cut off before its JSON was complete.
        """
        is_last = delta.report is not None
        self._generated += delta.text
        self._logprobs += map(_likelihood, delta.logprobs)
        pieces = self._parts.push(delta.text, last=is_last)
        if pieces or is_last:
            added = self._said.add(pieces)
            raw = None if delta.report is None else self._raw(delta.report, delta.finish_reason)
            asked = self._call.params.top_logprobs is not None
            logprobs = [*self._logprobs] if asked else None
            yield Reply(self._said.message(), added, logprobs, raw)
        if self._call.params.answer_schema is not None:
            check_complete(self._generated, delta.finish_reason)

    def _raw(self, report: Report, finish_reason: str | None) -> dict[str, Any]:
        report = report.preceded_by([*self._call.warnings, *self._said.warnings])
        return {
            "model": self._call.model,
            "finish_reason": finish_reason,
            # Decoder positions: what the prompt costs, and what LlamaIndex' token counter shows.
            "usage": {
                "prompt_tokens": report.positions,
                "completion_tokens": report.output_tokens,
                "total_tokens": report.positions + report.output_tokens,
            },
            "refrag": report.to_dict(),
        }


def _likelihood(told: TokenLogprob) -> list[LogProb]:
    own = (told.token, told.logprob)
    others = (pair for pair in told.top if pair != own)
    return [
        LogProb(token=token, logprob=logprob, bytes=utf8(token) or [])
        for token, logprob in (own, *others)
    ]
