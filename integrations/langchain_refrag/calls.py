"""One call of the chat model: a request that is answered at once, streamed, or in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_refrag.errors import as_langchain_errors
from langchain_refrag.settings import RefragSettings, told
from langchain_refrag.tools import AnswerReader
from refrag_components.engines.sampling import SamplingParams
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.report import Report
from refrag_components.generation.requests import (
    Answer,
    AnswerDelta,
    Answering,
    Request,
    agenerate_all,
)
from refrag_components.generation.tools import AnswerForm

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """A request that is ready to be answered.

    Attributes:
        settings: The settings of this call.
        answering: What answers.
        request: The request.
        form: What an answer looks like.
        params: How tokens are drawn.
        warnings: About its passages.
    """

    settings: RefragSettings
    answering: Answering
    request: Request | RemoteRequest
    form: AnswerForm
    params: SamplingParams
    warnings: Sequence[str]

    def generate(self) -> ChatResult:
        """Answers, ``n`` times.

        Raises:
            ContextOverflowError: If there is no room for an answer.
        """
        each = self.settings._each_params(self.params)
        with as_langchain_errors():
            return self._result(self.answering.generate([self.request] * len(each), each))

    async def agenerate(self) -> ChatResult:
        """As ``generate``, without blocking the event loop."""
        each = self.settings._each_params(self.params)
        with as_langchain_errors():
            requests = [self.request] * len(each)
            return self._result(await agenerate_all(self.answering, requests, each))

    def stream(self) -> Generator[ChatGenerationChunk]:
        """Streams the answer.

        Raises:
            ContextOverflowError: If there is no room for an answer.
            SamplingError: If there is to be more than one answer.
        """
        self.settings._refuse_several()
        reader = AnswerReader(self.form)
        with (
            as_langchain_errors(),  # a server's come with the first delta
            closing(self.answering.stream(self.request, self.params)) as deltas,
        ):
            for delta in deltas:
                yield from self._chunks(delta, reader)

    async def astream(self) -> AsyncGenerator[ChatGenerationChunk]:
        """As ``stream``, without blocking the event loop."""
        self.settings._refuse_several()
        reader = AnswerReader(self.form)
        with as_langchain_errors():
            deltas = await self.answering.astream(self.request, self.params)
            async with aclosing(deltas):
                async for delta in deltas:
                    for chunk in self._chunks(delta, reader):
                        yield chunk

    def _result(self, answers: Sequence[Answer]) -> ChatResult:
        return ChatResult(generations=[self._generation(answer) for answer in answers])

    def _generation(self, answer: Answer) -> ChatGeneration:
        message = AnswerReader(self.form).message(answer.text)
        metadata = self.settings._metadata(answer.report, answer.finish_reason, self.warnings)
        message.response_metadata = {**metadata, **told(answer.logprobs)}
        message.usage_metadata = _usage(answer.report)
        return ChatGeneration(message=message)

    def _chunks(self, delta: AnswerDelta, reader: AnswerReader) -> Iterator[ChatGenerationChunk]:
        chunks = reader.chunks(delta.text, last=delta.report is not None)
        if not chunks and (delta.logprobs or delta.report is not None):
            chunks = [AIMessageChunk(content="")]
        # Chunks are added up, so only one carries the totals.
        if delta.report is not None:
            chunks[-1].response_metadata = self.settings._metadata(
                delta.report, delta.finish_reason, self.warnings
            )
            chunks[-1].usage_metadata = _usage(delta.report)
            chunks[-1].chunk_position = "last"
        if delta.logprobs:
            chunks[-1].response_metadata |= told(delta.logprobs)
        return (ChatGenerationChunk(message=chunk) for chunk in chunks)


def _usage(report: Report) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=report.positions,
        output_tokens=report.output_tokens,
        total_tokens=report.positions + report.output_tokens,
    )
