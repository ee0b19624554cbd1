"""Requests to layouts: store, policy, budget and window put together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.cached import cached_property
from refrag_components.engines.layout import Layout, TextSegment, passage_segments
from refrag_components.exceptions import ContextWindowError, EmptyInputError
from refrag_components.generation.choosing import Choice, Chunks, choose, only_choice
from refrag_components.generation.cost_model import CostModel
from refrag_components.generation.passage_loader import LoadedPassage, PassageLoader
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Prepared
from refrag_components.generation.separators import without_separators
from refrag_components.policies import (
    Budget,
    FractionBudget,
    Milliseconds,
    Policy,
    PolicyInputs,
    PositionBudget,
    Rest,
)
from refrag_components.policies.encoding import encode_questions
from refrag_components.prompts.parts import ControlPart, PassagePart, RenderedPart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.encoded_question import EncodedQuestion
    from refrag_components.text.chunking import ChunkedPassage

__all__ = ["Preparer", "Terms"]

logger = logging.getLogger(__name__)

_ANSWER_SHARE = 4  # at most 1/4 of the window is kept free for an answer


@dataclass(frozen=True)
class Terms:
    """What a request asks for, with the generator's defaults filled in.

    Attributes:
        parts: The prompt.
        question: What the user asks.
        policy: Chooses the chunks to expand.
        budget: How much may expand, or enter.
        rest: What becomes of chunks that do not expand.
        max_tokens: Length of the answer to keep room for in the window.
        window: Longest prompt with its answer in positions that the engine takes.
        costs: How long prompts take, if the budget is a time.
    """

    parts: Sequence[RenderedPart]
    question: str
    policy: Policy
    budget: Budget
    rest: Rest
    max_tokens: int
    window: int
    costs: CostModel | None = None

    @cached_property
    def passages(self) -> list[PassagePart]:
        """The passages of the prompt, in order."""
        return [part for part in self.parts if isinstance(part, PassagePart)]


@dataclass(frozen=True, eq=False)
class _Draft:
    """A request whose passages are loaded and whose text is tokenised.

    Attributes:
        chunks: The chunks of its passages.
        text_positions: Decoder positions outside passages.
        limit: Decoder positions that the passages may take so that an answer still fits.
    """

    terms: Terms
    loaded: Sequence[LoadedPassage]
    spans: Sequence[tuple[str, np.ndarray | ChunkVectors]]
    chunks: Chunks
    text_positions: int
    limit: int

    def budget(self, spent: float) -> FractionBudget | PositionBudget:
        """The budget; a time as the positions that fit what is left of it.

        Args:
            spent: Seconds since the request.
        """
        budget = self.terms.budget
        if not isinstance(budget, Milliseconds):
            return budget
        assert self.terms.costs is not None  # loaded with the terms
        fitting = self.terms.costs.within(budget.milliseconds / 1000 - spent)
        return PositionBudget(max(fitting - self.text_positions, 1))


class Preparer:
    """Does everything except decoding: loads chunk vectors, chooses, lays out.

    Args:
        model: The REFRAG model.
        loader: Gets the chunk vectors of passages.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        model: RefragModel,
        loader: PassageLoader,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._loader = loader
        self._clock = clock
        self._prompts = PromptTokenizer(model.tokenizer)

    def prepare(self, requests: Sequence[Terms]) -> list[Prepared]:
        """Prepares requests with one store look-up and one encoder batch.

        Raises:
            ContextWindowError: If a prompt does not fit the decoder's window.
            EmptyInputError: If a prompt is empty.
        """
        started = self._clock()
        requests = list(map(_without_blank_passages, requests))

        def check(known: Mapping[str, ChunkVectors]) -> None:
            for terms in requests:
                self._refuse_overlong(terms, known)

        parts = [part for terms in requests for part in terms.passages]
        loaded = iter(self._loader.load(parts, before_encoding=check))
        drafts = [self._draft(terms, [next(loaded) for _ in terms.passages]) for terms in requests]
        only = [self._only_choice(draft, started) for draft in drafts]
        undecided = [draft.terms for draft, choice in zip(drafts, only, strict=True) if not choice]
        asked = [(terms.question, terms.policy) for terms in undecided]
        questions = iter(encode_questions(self._model, asked))
        return [
            self._lay_out(draft, choice)
            if choice
            else self._lay_out(draft, *self._choice(draft, next(questions), started))
            for draft, choice in zip(drafts, only, strict=True)
        ]

    def _only_choice(self, draft: _Draft, started: float) -> Choice | None:
        """What becomes of the chunks, if no policy is needed to decide it."""
        budget = draft.budget(self._clock() - started)
        return only_choice(draft.chunks, budget, draft.terms.rest, draft.limit)

    def _choice(
        self, draft: _Draft, question: EncodedQuestion, started: float
    ) -> tuple[Choice, np.ndarray]:
        """What becomes of the chunks by the policy's scores, and these."""
        inputs = PolicyInputs([passage.vectors for passage in draft.loaded], question)
        scores = draft.terms.policy.scores(inputs)
        budget = draft.budget(self._clock() - started)
        return choose(scores, draft.chunks, budget, draft.terms.rest, draft.limit), scores

    def _refuse_overlong(self, terms: Terms, known: Mapping[str, ChunkVectors]) -> None:
        """Counts a prompt that may be too long, because encoding it takes far longer than counting.

        Args:
            terms: The request.
            known: Passages that need not be encoded, by their text.

        Raises:
            ContextWindowError: If it does not fit whatever becomes of the chunks.
        """
        new = [part.text for part in terms.passages if part.text not in known]
        most = 0  # positions that may be needed at the least: a token takes a byte or more
        for part in terms.parts:
            size = len(part.text.encode("utf-8", "replace"))
            is_passage = isinstance(part, PassagePart)
            most += -(-size // self._model.config.chunk_size) if is_passage else size
        if not new or most < terms.window:
            return  # nothing to encode, or short enough without being cut
        cut = dict(zip(new, self._model.chunker.chunk(new, offsets=False), strict=True))
        chunks = self._chunks([known.get(p.text) or cut[p.text] for p in terms.passages])
        n_text = 0
        for _, run in groupby(terms.parts, key=lambda part: isinstance(part, PassagePart)):
            n_text += len(self._prompts.encode([p for p in run if not isinstance(p, PassagePart)]))
        _context_limit(replace(terms, max_tokens=1), n_text, chunks)

    def _chunks(self, passages: Sequence[ChunkVectors | ChunkedPassage]) -> Chunks:
        lengths = [np.zeros(0, np.int64), *(passage.chunk_lengths for passage in passages)]
        counts = np.array([passage.n_chunks for passage in passages], dtype=np.int64)
        return Chunks(counts, np.concatenate(lengths), self._model.config.rungs)

    def _draft(self, terms: Terms, loaded: Sequence[LoadedPassage]) -> _Draft:
        spans = self._spans(terms.parts, [passage.vectors for passage in loaded])
        text_positions = sum(
            len(content) for _, content in spans if isinstance(content, np.ndarray)
        )
        chunks = self._chunks([passage.vectors for passage in loaded])
        limit = _context_limit(terms, text_positions, chunks)
        return _Draft(terms, loaded, spans, chunks, text_positions, limit)

    def _lay_out(self, draft: _Draft, choice: Choice, scores: np.ndarray | None = None) -> Prepared:
        warnings = list(choice.warnings)
        vectors = [passage.vectors for passage in draft.loaded]
        passages = iter(passage_segments(vectors, choice.expanded, choice.rungs))
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
        room = draft.terms.window - layout.n_positions
        wanted = draft.terms.max_tokens
        if wanted > room:
            warnings.append(
                f"the answer is limited to {room} tokens instead of {wanted}: the prompt "
                f"takes {layout.n_positions} of the decoder's {draft.terms.window} positions"
            )
        report = _report(layout, draft.terms, draft.loaded, warnings)
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
            () if scores is None else tuple(np.split(scores, draft.chunks.counts.cumsum()[:-1])),
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
            if run and len(ids := self._prompts.encode(run)):
                spans.append(("".join(text_part.text for text_part in run), ids))
            run = []
            if part is not None:
                spans.append((part.text, next(remaining)))
        opening: list[int] = []
        if not any(isinstance(part, ControlPart) for part in parts):
            opening = self._prompts.opening
        if not opening and spans and isinstance(spans[0][1], ChunkVectors):
            opening = [self._model.first_token_id]
        if opening and spans:
            spans.insert(0, ("", np.asarray(opening, np.int64)))
        return spans


def _context_limit(terms: Terms, text_positions: int, chunks: Chunks) -> int:
    """Decoder positions that the passages may take so that an answer still fits."""
    window, least = terms.window, _least(chunks, terms)
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
    return window - text_positions - min(terms.max_tokens, room, max(window // _ANSWER_SHARE, 1))


def _least(chunks: Chunks, terms: Terms) -> int:
    """The fewest positions that the passages can take."""
    if terms.rest == "drop" or not isinstance(terms.budget, FractionBudget):
        return 0
    return chunks.positions(chunks.every(terms.rest, expanded=False))


def _without_blank_passages(terms: Terms) -> Terms:
    """The same with passages of white space as text."""
    parts = [
        TextPart(part.text) if isinstance(part, PassagePart) and not part.text.strip() else part
        for part in terms.parts
    ]
    return replace(terms, parts=parts)


def _report(
    layout: Layout,
    terms: Terms,
    loaded: Sequence[LoadedPassage],
    warnings: Sequence[str],
) -> Report:
    texts = [part.text for part in terms.passages]
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
