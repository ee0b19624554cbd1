"""Requests to answers: store, policy, layout and engine put together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.engines.base import AsyncEngine, Engine, EngineDelta
from refrag_components.engines.in_threads import stream_in_threads
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.engines.sampling import SamplingParams, params_by_row
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.exceptions import ContextWindowError, EmptyInputError
from refrag_components.generation.choosing import Choice, Chunks, choose, only_choice
from refrag_components.generation.explanation import Explanation, explain
from refrag_components.generation.passage_loader import LoadedPassage, PassageLoader
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Answer, AnswerDelta, Prepared, Request
from refrag_components.generation.separators import without_separators
from refrag_components.policies import (
    DEFAULT_POLICY,
    Budget,
    FractionBudget,
    Policy,
    PolicyInputs,
    Rest,
    make_policy,
    parse_rest,
)
from refrag_components.prompts.parts import ControlPart, PassagePart, RenderedPart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.encoded_question import EncodedQuestion
    from refrag_components.stores.base import ChunkStore
    from refrag_components.text.chunking import ChunkedPassage

__all__ = ["RefragGenerator"]

logger = logging.getLogger(__name__)

_BUDGET = FractionBudget(0.25)
_ANSWER_SHARE = 4  # at most 1/4 of the window is kept free for an answer


class RefragGenerator:
    """Answers prompts whose passages enter the decoder as chunk embeddings.

    Safe to use from several threads if its store is.

    Args:
        model: The REFRAG model.
        store: Where chunk vectors are kept; in memory by default.
        engine: Runs the decoder; transformers by default.
        policy: Name or policy that chooses the chunks to expand; "auto" is ``learned-query`` if the
            checkpoint carries it, else ``late-interaction``.
        budget: How much may expand (a fraction of the chunks) or enter (a number of positions),
            see ``refrag_components.generation.choosing.choose``.
        rest: What becomes of chunks that do not expand: "compress" makes chunk embeddings of them,
            "drop" leaves them out.

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
        rest: Rest = "compress",
    ) -> None:
        self.model = model
        self.store = MemoryStore() if store is None else store
        self.engine: Engine = TransformersEngine(model) if engine is None else engine
        self._loader = PassageLoader(model, self.store)
        self._prompts = PromptTokenizer(model.tokenizer)
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

        Returns:
            One answer per request, in order.

        Raises:
            ContextWindowError: If a prompt does not fit the decoder's window: its text alone, or,
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
            outputs = engine.generate([prepared[i].layout for i in rows], [each[i] for i in rows])
            for i, output in zip(rows, outputs, strict=True):
                report = replace(
                    prepared[i].report,
                    output_tokens=len(output.token_ids),
                    time_to_first_token=waited + output.time_to_first_token,
                )
                answers[i] = Answer(output.text, output.finish_reason, report)
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
        deltas = engine.stream(prepared.layout, params)

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
        texts: list[str] = []
        async with aclosing(await self.astream(request, params)) as deltas:
            async for delta in deltas:
                texts.append(delta.text)
        assert delta.finish_reason is not None and delta.report is not None
        return Answer("".join(texts), delta.finish_reason, delta.report)

    async def astream(
        self, request: Request, params: SamplingParams
    ) -> AsyncGenerator[AnswerDelta]:
        """As ``stream``, without blocking the event loop; await it for the stream.

        Only the preparation takes a thread, and from an engine without ``astream`` each token.
        """
        growing = _Growing(time.perf_counter())
        prepared = await asyncio.to_thread(self.prepare, request, max_tokens=params.max_tokens)
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
            max_tokens: Length of the answer to keep room for in the decoder's window, at most a
                quarter of it.

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

    def explain(self, prepared: Prepared, question: str = "") -> Explanation:
        """Tells what became of each character of a prompt.

        Args:
            prepared: The prompt.
            question: What was asked, for whoever looks at the explanation.
        """
        return explain(prepared, self.model.chunker, question)

    def _prepare(self, requests: Sequence[Request], max_tokens: Sequence[int]) -> list[Prepared]:
        terms = [self._terms(request) for request in requests]  # first: a mistake costs no encoding
        prompts = [[_blank_as_text(part) for part in request.parts] for request in requests]
        for parts, request_terms in zip(prompts, terms, strict=True):
            self._refuse_overlong(parts, request_terms)
        passages = [[part for part in parts if isinstance(part, PassagePart)] for parts in prompts]
        loaded = iter(
            self._loader.load([part for prompt_parts in passages for part in prompt_parts])
        )
        drafts = [
            self._draft(request_terms, parts, [next(loaded) for _ in prompt_passages], tokens)
            for request_terms, parts, prompt_passages, tokens in zip(
                terms, prompts, passages, max_tokens, strict=True
            )
        ]
        undecided = [draft.terms.question for draft in drafts if draft.only_choice is None]
        questions = iter(self.model.encode_questions(undecided))
        return [self._lay_out(draft, *_choice(draft, questions)) for draft in drafts]

    def _terms(self, request: Request) -> _Terms:
        if not request.question.strip():
            msg = "the question is empty; pass what the user asks"
            raise EmptyInputError(msg)
        policy = self.policy if request.policy is None else self._policy(request.policy)
        budget = self.budget if request.budget is None else request.budget
        rest = self.rest if request.rest is None else parse_rest(request.rest)
        return _Terms(request.question, policy, policy.budget(budget), rest)

    def _refuse_overlong(self, parts: Sequence[RenderedPart], terms: _Terms) -> None:
        """Counts a prompt that may be too long, because encoding it takes far longer than counting.

        Raises:
            ContextWindowError: If it does not fit whatever becomes of the chunks.
        """
        most = 0  # positions that may be needed at the least: a token takes a byte or more
        for part in parts:
            size = len(part.text.encode("utf-8", "replace"))
            is_passage = isinstance(part, PassagePart)
            most += -(-size // self.model.config.chunk_size) if is_passage else size
        if most < self.model.window:
            return  # without cutting passages that a store may know
        texts = [part.text for part in parts if isinstance(part, PassagePart)]
        chunks = self._chunks(self.model.chunker.chunk(texts))
        n_text = 0
        for _, run in groupby(parts, key=lambda part: isinstance(part, PassagePart)):
            n_text += len(self._prompts.encode([p for p in run if not isinstance(p, PassagePart)]))
        self._context_limit(n_text, _least(chunks, terms), 1)

    def _chunks(self, passages: Sequence[ChunkVectors] | Sequence[ChunkedPassage]) -> Chunks:
        lengths = [np.zeros(0, np.int64), *(passage.chunk_lengths for passage in passages)]
        counts = np.array([passage.n_chunks for passage in passages], dtype=np.int64)
        return Chunks(counts, np.concatenate(lengths), self.model.config.rungs)

    def _draft(
        self,
        terms: _Terms,
        parts: Sequence[RenderedPart],
        loaded: Sequence[LoadedPassage],
        max_tokens: int,
    ) -> _Draft:
        spans = self._spans(parts, [passage.vectors for passage in loaded])
        text_positions = sum(
            len(content) for _, content in spans if isinstance(content, np.ndarray)
        )
        chunks = self._chunks([passage.vectors for passage in loaded])
        limit = self._context_limit(text_positions, _least(chunks, terms), max_tokens)
        return _Draft(terms, parts, loaded, max_tokens, spans, chunks, limit)

    def _lay_out(self, draft: _Draft, choice: Choice, scores: np.ndarray | None) -> Prepared:
        warnings = list(choice.warnings)
        ends = draft.chunks.counts.cumsum()
        masks = np.split(choice.expanded, ends)
        passages = iter(
            PassageSegment(passage.vectors, mask, int(rung))
            for passage, mask, rung in zip(draft.loaded, masks, choice.rungs, strict=False)
        )
        segments = without_separators(
            [
                TextSegment(content) if isinstance(content, np.ndarray) else next(passages)
                for _, content in draft.spans
            ],
            [text for text, _ in draft.spans],
        )
        if not any(segment.n_positions for segment in segments):
            msg = "the prompt is empty; pass at least one message or some text"
            raise EmptyInputError(msg)
        layout = Layout(tuple(segments))
        room = self.model.window - layout.n_positions
        if draft.max_tokens > room:
            warnings.append(
                f"the answer is limited to {room} tokens instead of {draft.max_tokens}: the prompt "
                f"takes {layout.n_positions} of the decoder's {self.model.window} positions"
            )
        report = _report(layout, draft.terms, draft.parts, draft.loaded, warnings)
        logger.debug(
            "%d tokens of passages in %d positions, %d positions in all",
            report.context_tokens,
            report.context_positions,
            report.positions,
        )
        return Prepared(
            layout,
            tuple(text for text, _ in draft.spans),
            report,
            () if scores is None else tuple(np.split(scores, ends[:-1])),
        )

    def _spans(
        self, parts: Sequence[RenderedPart], vectors: Sequence[ChunkVectors]
    ) -> list[tuple[str, np.ndarray | ChunkVectors]]:
        """Joins neighbouring text and pairs each span with its tokens or chunk vectors."""
        spans: list[tuple[str, np.ndarray | ChunkVectors]] = []
        remaining = iter(vectors)
        run: list[TextPart | ControlPart] = []
        for part in (*parts, None):
            if isinstance(part, (TextPart, ControlPart)):
                run.append(part)
                continue
            ids = self._prompts.encode(run)
            if len(ids):
                spans.append(("".join(text_part.text for text_part in run), ids))
            run = []
            if part is not None:
                spans.append((part.text, next(remaining)))
        opening: list[int] = []
        if not any(isinstance(part, ControlPart) for part in parts):
            opening = self._prompts.opening
        if not opening and spans and isinstance(spans[0][1], ChunkVectors):
            opening = [self.model.first_token_id]
        if opening and spans:
            spans.insert(0, ("", np.asarray(opening, np.int64)))
        return spans

    def _context_limit(self, text_positions: int, least: int, max_tokens: int) -> int:
        """Decoder positions that the passages may take so that an answer still fits."""
        window = self.model.window
        room = window - text_positions - least
        if room < 1:
            context = f" and at least {least} of context, one for each chunk," if least else ""
            budget = ", or give a number of positions as the budget" if least else ""
            msg = (
                f"the prompt takes {text_positions} positions of text{context} and the decoder's "
                f"window is {window}, so there is no room for an answer; retrieve fewer passages "
                f"or shorten the prompt{budget}"
            )
            raise ContextWindowError(msg)
        return window - text_positions - min(max_tokens, room, max(window // _ANSWER_SHARE, 1))

    def _policy(self, policy: str | Policy) -> Policy:
        if isinstance(policy, Policy):
            return policy
        if policy not in self._named_policies:  # kept, because a policy may remember passages
            self._named_policies[policy] = make_policy(policy, self.model)
        return self._named_policies[policy]


@dataclass(frozen=True)
class _Terms:
    """What a request asks for, with the generator's defaults filled in."""

    question: str
    policy: Policy
    budget: Budget
    rest: Rest


@dataclass(frozen=True, eq=False)
class _Draft:
    """A request whose passages are loaded and whose text is tokenised.

    Attributes:
        chunks: The chunks of its passages.
        limit: Decoder positions that the passages may take so that an answer still fits.
    """

    terms: _Terms
    parts: Sequence[RenderedPart]
    loaded: Sequence[LoadedPassage]
    max_tokens: int
    spans: Sequence[tuple[str, np.ndarray | ChunkVectors]]
    chunks: Chunks
    limit: int

    @cached_property
    def only_choice(self) -> Choice | None:
        """What becomes of the chunks, if no policy is needed to decide it."""
        return only_choice(self.chunks, self.terms.budget, self.terms.rest, self.limit)


class _Growing:
    """An engine's deltas as those of an answer, with what happened on the last one.

    Attributes:
        report: What has happened so far.
    """

    report: Report

    def __init__(self, started: float) -> None:
        self._started = started

    def deltas(self, delta: EngineDelta) -> Iterator[AnswerDelta]:
        """None while no text is certain, else one."""
        report = self.report
        if report.time_to_first_token is None:
            report = replace(report, time_to_first_token=time.perf_counter() - self._started)
        self.report = replace(report, output_tokens=report.output_tokens + len(delta.token_ids))
        if delta.finish_reason is not None:
            yield AnswerDelta(delta.text, delta.finish_reason, self.report)
        elif delta.text:
            yield AnswerDelta(delta.text)


def _choice(
    draft: _Draft, questions: Iterator[EncodedQuestion]
) -> tuple[Choice, np.ndarray | None]:
    """What becomes of the chunks, and their scores; takes the next question if a policy chooses."""
    if draft.only_choice is not None:
        return draft.only_choice, None
    inputs = PolicyInputs([passage.vectors for passage in draft.loaded], next(questions))
    terms = draft.terms
    scores = terms.policy.scores(inputs)
    return choose(scores, draft.chunks, terms.budget, terms.rest, draft.limit), scores


def _least(chunks: Chunks, terms: _Terms) -> int:
    """The fewest positions that the passages can take."""
    if terms.rest == "drop" or not isinstance(terms.budget, FractionBudget):
        return 0
    return chunks.positions(chunks.every(terms.rest, expanded=False))


def _blank_as_text(part: RenderedPart) -> RenderedPart:
    blank = isinstance(part, PassagePart) and not part.text.strip()
    return TextPart(part.text) if blank else part


def _report(
    layout: Layout,
    terms: _Terms,
    parts: Sequence[RenderedPart],
    loaded: Sequence[LoadedPassage],
    warnings: Sequence[str],
) -> Report:
    texts = [part.text for part in parts if isinstance(part, PassagePart)]
    different = list(dict(zip(texts, loaded, strict=True)).values())
    flaws = [passage.flaw for passage in different if passage.flaw]
    errors = {passage.store_error for passage in different if passage.store_error}
    refused = [f"stored chunk vectors were not used and computed again: {flaw}" for flaw in flaws]
    return Report(
        context_tokens=layout.context_tokens,
        context_positions=layout.context_positions,
        positions=layout.n_positions,
        rate=layout.rate,
        chunks=layout.n_chunks,
        expanded=layout.n_expanded,
        compressed=layout.n_compressed,
        dropped=layout.n_chunks - layout.n_expanded - layout.n_compressed,
        cache_hits=sum(passage.cached for passage in different),
        cache_misses=sum(not passage.cached for passage in different),
        fallbacks=len(flaws),
        policy=terms.policy.name,
        budget=terms.budget.number,
        rest=terms.rest,
        warnings=[*sorted(errors), *dict.fromkeys(refused), *warnings],
    )
