"""Requests to answers: what ``preparing`` makes of them goes through the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from refrag_components.engines.base import AsyncEngine, Engine, EngineDelta, TokenLogprob
from refrag_components.engines.in_threads import stream_in_threads
from refrag_components.engines.sampling import SamplingParams, params_by_row
from refrag_components.engines.shared_engine import SharedEngine
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import AnswerTimeoutError, BudgetError, EmptyInputError, shown
from refrag_components.generation.cost_model import CostModel, load_costs
from refrag_components.generation.explanation import Explanation, explain
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.preparing import Preparer, Terms
from refrag_components.generation.report import Report
from refrag_components.generation.requests import (
    Answer,
    AnswerDelta,
    Prepared,
    Request,
    whole_answer,
)
from refrag_components.policies import (
    DEFAULT_POLICY,
    DEFAULT_REST,
    Budget,
    FractionBudget,
    Milliseconds,
    Policy,
    Rest,
    make_policy,
    parse_rest,
)
from refrag_components.stores.memory import MemoryStore

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragGenerator"]

_BUDGET = FractionBudget(0.25)


class RefragGenerator:
    """Answers prompts whose passages enter the decoder as chunk embeddings.

    Safe to use from several threads if its store is.

    Args:
        model: The REFRAG model.
        store: Where chunk vectors are kept; in memory by default.
        engine: Runs the decoder; transformers by default.
        policy: Name or policy that chooses the chunks to expand; "auto" is ``learned-query`` if the
            checkpoint carries it, else ``late-interaction``.
        budget: How much may expand (a fraction of the chunks) or enter (a number of positions, or
            as many as fit a time), see ``refrag_components.generation.choosing.choose``.
        rest: What becomes of chunks that do not expand: "drop" leaves them out, "compress" makes
            chunk embeddings of them.
        costs: How long prompts take with this engine, for a time as the budget; by default what
            ``refrag bench calibrate`` measured on this machine, with transformers.
        clock: Seconds of a clock that never goes back.

    Raises:
        BudgetError: If ``rest`` is neither.
        UnknownPolicyError: If no policy has that name, or the checkpoint does not carry it.
    """

    def __init__(
        self,
        model: RefragModel,
        *,
        store: ChunkStore | None = None,
        engine: Engine | None = None,
        policy: str | Policy = DEFAULT_POLICY,
        budget: Budget = _BUDGET,
        rest: Rest = DEFAULT_REST,
        costs: CostModel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self._costs = costs
        self.store = MemoryStore() if store is None else store
        self.engine: Engine = TransformersEngine(model) if engine is None else engine
        self._loader = PassageLoader(model, self.store)
        self._preparer = Preparer(model, self._loader, clock=clock)
        self._named_policies: dict[str, Policy] = {}
        self.policy = self._policy(policy)
        self.budget = budget
        self.rest = parse_rest(rest)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Answer]:
        """Answers several requests with one store look-up, one encoder batch and batched decoding.

        Args:
            requests: The requests.
            params: One for each request, or one for all; then row i samples with ``seed + i``.
                The time of an answer includes what is done before it is decoded.

        Returns:
            One answer per request, in order.

        Raises:
            AnswerTimeoutError: If an answer is not complete after its ``timeout``.
            BudgetError: If a time is the budget and nothing was measured on this machine, or not
                with the engine that is to answer.
            ContextWindowError: If a prompt does not fit the engine's window: its text alone, or,
                if a fraction of the chunks is to expand and the rest to be compressed, with every
                chunk compressed.
            EmptyInputError: If a question or a prompt is empty.
            UnknownPolicyError: If no policy has the name that a request asks for.
        """
        started = time.perf_counter()
        each = params_by_row(params, len(requests))
        prepared = self._prepare(requests, [request_params.max_tokens for request_params in each])
        engines = [self.engine if r.engine is None else r.engine for r in requests]
        answers: dict[int, Answer] = {}
        for engine in {id(engine): engine for engine in engines}.values():
            rows = [i for i, other in enumerate(engines) if other is engine]
            waited = time.perf_counter() - started
            outputs = engine.generate(
                [prepared[i].layout for i in rows], [_less(each[i], waited) for i in rows]
            )
            for i, output in zip(rows, outputs, strict=True):
                report = replace(
                    prepared[i].report,
                    output_tokens=len(output.token_ids),
                    time_to_first_token=waited + output.time_to_first_token,
                )
                answers[i] = Answer(output.text, output.finish_reason, report, output.logprobs)
        return [answers[i] for i in range(len(requests))]

    def stream(self, request: Request, params: SamplingParams) -> Generator[AnswerDelta]:
        """Streams the answer to one request; the texts joined are what ``generate`` returns.

        Closing the stream ends the decoding.

        Raises:
            RefragError: As ``generate``; raised by this call, not with the first delta.
        """
        growing = _Growing(time.perf_counter())
        prepared = self.prepare(request, max_tokens=params.max_tokens)
        engine = self.engine if request.engine is None else request.engine
        deltas = engine.stream(prepared.layout, _less(params, growing.seconds))

        def answer() -> Generator[AnswerDelta]:
            growing.report = prepared.report
            with closing(deltas):
                for delta in deltas:
                    yield from growing.deltas(delta)

        return answer()

    async def agenerate(self, request: Request, params: SamplingParams) -> Answer:
        """As ``generate`` for one request, without blocking the event loop.

        When the task is cancelled, the decoding ends.
        """
        parts: list[AnswerDelta] = []
        async with aclosing(await self.astream(request, params)) as deltas:
            async for delta in deltas:
                parts.append(delta)
        return whole_answer(parts)

    async def astream(
        self, request: Request, params: SamplingParams
    ) -> AsyncGenerator[AnswerDelta]:
        """As ``stream``, without blocking the event loop; await it for the stream.

        Only the preparation takes a thread, and from an engine without ``astream`` each token.
        """
        growing = _Growing(time.perf_counter())
        preparing = asyncio.to_thread(self.prepare, request, max_tokens=params.max_tokens)
        try:
            async with asyncio.timeout(params.timeout) as limit:
                prepared = await preparing
        except TimeoutError as error:
            if limit.expired():
                raise AnswerTimeoutError from error
            raise
        params = _less(params, growing.seconds)
        engine = self.engine if request.engine is None else request.engine
        if isinstance(engine, AsyncEngine):
            deltas = engine.astream(prepared.layout, params)
        else:
            deltas = stream_in_threads(engine.stream(prepared.layout, params))

        async def answer() -> AsyncGenerator[AnswerDelta]:
            growing.report = prepared.report
            async with aclosing(deltas):
                async for delta in deltas:
                    for part in growing.deltas(delta):
                        yield part

        return answer()

    def prepare(self, request: Request, *, max_tokens: int = 1) -> Prepared:
        """Does everything except decoding: loads chunk vectors, chooses, lays out.

        Args:
            request: The request.
            max_tokens: Length of the answer to keep room for in the window, at most a quarter of
                it.

        Raises:
            RefragError: As ``generate``.
        """
        return self._prepare([request], [max_tokens])[0]

    def flush(self, seconds: float | None = None) -> bool:
        """Waits until the chunk vectors of new passages are stored, which no answer waits for.

        Args:
            seconds: For at most so long; None without limit.

        Returns:
            Whether nothing is left to be written.
        """
        return self._loader.flush(seconds)

    @property
    def window(self) -> int:
        """Longest prompt with its answer in positions: its engine's, at most the decoder's."""
        return _window_of(self.engine, self.model)

    def explain(self, prepared: Prepared, question: str = "") -> Explanation:
        """Tells what became of each character of a prompt.

        Args:
            prepared: The prompt.
            question: What was asked, for whoever looks at the explanation.
        """
        return explain(prepared, self.model.chunker, question)

    def _prepare(self, requests: Sequence[Request], max_tokens: Sequence[int]) -> list[Prepared]:
        terms = map(self._terms, requests, max_tokens)
        return self._preparer.prepare(list(terms))  # a list: a mistake costs no encoding

    def _terms(self, request: Request, max_tokens: int) -> Terms:
        if not request.question.strip():
            msg = "the question is empty; pass what the user asks"
            raise EmptyInputError(msg)
        policy = self.policy if request.policy is None else self._policy(request.policy)
        budget = self.budget if request.budget is None else request.budget
        rest = self.rest if request.rest is None else parse_rest(request.rest)
        allowed = policy.budget(budget)
        if rest == "drop" and allowed == FractionBudget(0.0):
            msg = (
                f"policy {policy.name!r} with budget {shown(budget.number)} expands nothing, and "
                'rest="drop" leaves out everything else, so that no passage would be read; set '
                'rest="compress" to read chunk embeddings alone'
            )
            raise BudgetError(msg)
        engine = self.engine if request.engine is None else request.engine
        return Terms(
            tuple(request.parts),
            request.question,
            policy,
            allowed,
            rest,
            max_tokens,
            _window_of(engine, self.model),
            costs=self._costs_with(engine) if isinstance(allowed, Milliseconds) else None,
        )

    def _costs_with(self, engine: Engine) -> CostModel:
        """How long prompts take with an engine."""
        is_own = isinstance(self.engine, VllmEngine) and self._costs is not None
        if isinstance(engine, VllmEngine) and not is_own:
            msg = (
                "how much vLLM reads in a time was not measured; give a number of positions or a "
                'fraction as the budget, or use engine="transformers"'
            )
            raise BudgetError(msg)
        if self._costs is None:
            self._costs = load_costs(self.model)
        return self._costs

    def _policy(self, policy: str | Policy) -> Policy:
        if isinstance(policy, Policy):
            return make_policy(policy, self.model)
        if policy not in self._named_policies:  # kept, because a policy may remember passages
            self._named_policies[policy] = make_policy(policy, self.model)
        return self._named_policies[policy]


def _window_of(engine: Engine, model: RefragModel) -> int:
    """Longest prompt with its answer in positions; vLLM may run with less than the decoder's."""
    return engine.window if isinstance(engine, SharedEngine) else model.window


class _Growing:
    """An engine's deltas as those of an answer, with what happened on the last one.

    Attributes:
        report: What has happened so far.
    """

    report: Report

    def __init__(self, started: float) -> None:
        self._started = started
        self._logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self._started

    def deltas(self, delta: EngineDelta) -> Iterator[AnswerDelta]:
        """None while no text is certain, else one."""
        report = self.report
        if report.time_to_first_token is None:
            report = replace(report, time_to_first_token=self.seconds)
        self.report = replace(report, output_tokens=report.output_tokens + len(delta.token_ids))
        self._logprobs += delta.logprobs
        if delta.finish_reason is not None:
            yield AnswerDelta(delta.text, delta.finish_reason, self.report, self._logprobs)
        elif delta.text:
            yield AnswerDelta(delta.text, logprobs=self._logprobs)
            self._logprobs = ()


def _less(params: SamplingParams, seconds: float) -> SamplingParams:
    """The parameters with the time that is left after so many seconds.

    Raises:
        AnswerTimeoutError: If none is left.
    """
    if params.timeout is None:
        return params
    if params.timeout <= seconds:
        raise AnswerTimeoutError
    return replace(params, timeout=params.timeout - seconds)
