"""One call of the LLM: a request that is answered at once, streamed, or in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from refrag_components.engines import SamplingParams
from refrag_components.engines.json_schema import check_complete
from refrag_components.generation.remote import RemoteRequest
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Answer, AnswerDelta, Answering, Request

__all__ = ["Call", "Reply"]


@dataclass(frozen=True)
class Reply:
    """An answer, or as much of it as there is so far.

    Attributes:
        text: All text so far.
        delta: What was added last.
        raw: What the answer says about itself; None before it is complete.
    """

    text: str
    delta: str
    raw: dict[str, Any] | None = None


@dataclass(frozen=True)
class Call:
    """A request that is ready to be answered.

    Attributes:
        generator: What answers.
        request: The request.
        params: How tokens are drawn.
        model: Name of the checkpoint.
        warnings: About texts that claimed to be a passage and could not be resolved.
    """

    generator: Answering
    request: Request | RemoteRequest
    params: SamplingParams
    model: str
    warnings: Sequence[str]

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
        self._check(answer.text, answer.finish_reason)
        return Reply(answer.text, answer.text, self._raw(answer.report, answer.finish_reason))

    def replies(self) -> Generator[Reply]:
        """Streams the answer; errors of the request are raised immediately."""
        deltas = self.generator.stream(self.request, self.params)

        def grow() -> Generator[Reply]:
            text = ""
            with closing(deltas):
                for delta in deltas:
                    text += delta.text
                    yield self._grown(text, delta)
                    self._check(text, delta.finish_reason)

        return grow()

    async def areplies(self) -> AsyncGenerator[Reply]:
        """As ``replies``, without blocking the event loop."""
        deltas = await self.generator.astream(self.request, self.params)

        async def grow() -> AsyncGenerator[Reply]:
            text = ""
            async with aclosing(deltas):
                async for delta in deltas:
                    text += delta.text
                    yield self._grown(text, delta)
                    self._check(text, delta.finish_reason)

        return grow()

    def _grown(self, text: str, delta: AnswerDelta) -> Reply:
        raw = None if delta.report is None else self._raw(delta.report, delta.finish_reason)
        return Reply(text, delta.text, raw)

    def _check(self, text: str, finish_reason: str | None) -> None:
        if self.params.answer_schema is not None:
            check_complete(text, finish_reason)

    def _raw(self, report: Report, finish_reason: str | None) -> dict[str, Any]:
        report = report.preceded_by(self.warnings)
        return {
            "model": self.model,
            "finish_reason": finish_reason,
            # Decoder positions: what the prompt costs, and what LlamaIndex' token counter shows.
            "usage": {
                "prompt_tokens": report.positions,
                "completion_tokens": report.output_tokens,
                "total_tokens": report.positions + report.output_tokens,
            },
            "refrag": report.to_dict(),
        }
