"""Requests to a generator, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from refrag_components.engines.base import Engine, FinishReason, TokenLogprob
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.generation.report import Report
from refrag_components.policies import Budget, Policy, Rest
from refrag_components.prompts.parts import RenderedPart

__all__ = [
    "Answer",
    "AnswerDelta",
    "Answering",
    "Prepared",
    "Request",
    "agenerate_all",
    "whole_answer",
]


@dataclass(frozen=True)
class Request:
    """One prompt to answer.

    Attributes:
        parts: The prompt: parts from ``render``, or only text and passages for a raw prompt.
        question: What the user asks, for policies that look at it; not part of the prompt.
        policy: Name or policy; None for the generator's.
        budget: How much may expand, or enter; None for the generator's.
        rest: What becomes of chunks that do not expand; None for the generator's.
        engine: Runs the decoder; None for the generator's.
    """

    parts: Sequence[RenderedPart]
    question: str
    policy: str | Policy | None = None
    budget: Budget | None = None
    rest: Rest | None = None
    engine: Engine | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that is ready for the engine.

    Attributes:
        layout: The decoder's input.
        texts: The characters of each segment of the layout.
        report: What has happened so far.
        scores: What the policy gave the chunks of each passage; empty if it had nothing to choose.
    """

    layout: Layout
    texts: tuple[str, ...]
    report: Report
    scores: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        text: The answer.
        finish_reason: "stop" for an end token or a stop string, else "length".
        report: What happened.
        logprobs: If they were asked for: one per token, without the end token.
    """

    text: str
    finish_reason: FinishReason
    report: Report
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class AnswerDelta:
    """The next part of a streamed answer.

    Attributes:
        text: What it adds; only the last delta may be empty.
        finish_reason: As in ``Answer``, on the last delta.
        report: What happened, on the last delta.
        logprobs: As in ``Answer``, of the tokens since the last delta.
    """

    text: str
    finish_reason: FinishReason | None = None
    report: Report | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


def whole_answer(deltas: Sequence[AnswerDelta]) -> Answer:
    """The answer that all deltas of a stream are."""
    last = deltas[-1]
    assert last.finish_reason is not None and last.report is not None
    return Answer(
        "".join(delta.text for delta in deltas),
        last.finish_reason,
        last.report,
        tuple(told for delta in deltas for told in delta.logprobs),
    )


async def agenerate_all(
    answering: Answering, requests: Sequence[Any], params: Sequence[SamplingParams]
) -> list[Answer]:
    """Answers several requests at the same time, without blocking the event loop.

    Args:
        answering: What answers.
        requests: The requests.
        params: One for each.

    Returns:
        One answer per request, in order.

    Raises:
        RefragError: The first error of any; the other answers then end.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answering.agenerate(request, wanted))
                for request, wanted in zip(requests, params, strict=True)
            ]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class Answering(Protocol):
    """What answers requests: a generator in this process, or a server by its side.

    The kind of request is the implementation's.
    """

    def generate(
        self, requests: Sequence[Any], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Answer]:
        """Answers several requests."""
        ...

    def stream(self, request: Any, params: SamplingParams) -> Generator[AnswerDelta]:
        """Streams the answer to one request."""
        ...

    async def agenerate(self, request: Any, params: SamplingParams) -> Answer:
        """As ``generate`` for one request, without blocking the event loop."""
        ...

    async def astream(self, request: Any, params: SamplingParams) -> AsyncGenerator[AnswerDelta]:
        """As ``stream``, without blocking the event loop; await it for the stream."""
        ...
