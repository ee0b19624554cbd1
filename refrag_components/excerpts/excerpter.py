"""From a question and passages to the text that is worth reading."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from refrag_components.exceptions import BudgetError, EmptyInputError, shown
from refrag_components.excerpts.choosing import best_pieces, falling_point
from refrag_components.excerpts.pieces import UNITS, Excerpt, Piece, Unit, cut, excerpt, in_words
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.policies import DEFAULT_POLICY, Policy, PolicyInputs, make_policy
from refrag_components.policies.encoding import encode_questions
from refrag_components.prompts.parts import PassagePart
from refrag_components.stores.memory import MemoryStore
from refrag_components.text.splitting import CountTokens, token_counter

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["Excerpter", "check_excerpts"]

logger = logging.getLogger(__name__)


class Excerpter:
    """Finds what of some passages a question needs, for any model that reads text.

    A policy scores the passages' chunks by their vectors, which a store has ready; nothing is
    generated and no decoder runs. What it would expand is given as text: whole words or whole
    sentences, in order, with marks where something was left out. A row of a table comes with the
    table's head. Of a sentence that is longer than the whole budget, words are read.

    Safe to use from several threads if its store is.

    Args:
        model: The REFRAG model, for its encoder and policies.
        store: Where chunk vectors are kept; in memory by default.
        policy: Name or policy that scores chunks, as for ``RefragGenerator``.
        budget: A number in 0..1 is a fraction of the tokens of all passages, an int of at least 2 a
            number of tokens, "auto" stops where the scores fall.
        unit: "sentences", or "words": the words of a chunk.
        protect: Regular expressions of what must be read, such as numbers or article ids; a piece
            that a match touches is read even beyond the budget.
        count_tokens: Counts tokens of the model that will read; by default of this decoder.

    Raises:
        BudgetError: If the budget is none of these.
        UnknownPolicyError: If no policy has that name, or the checkpoint does not carry it.
        ValueError: If the unit is neither, or a regular expression is none.
    """

    def __init__(
        self,
        model: RefragModel,
        *,
        store: ChunkStore | None = None,
        policy: str | Policy = DEFAULT_POLICY,
        budget: float | Literal["auto"] = 0.25,
        unit: Unit = "sentences",
        protect: Sequence[str] = (),
        count_tokens: CountTokens | None = None,
    ) -> None:
        self._protected = check_excerpts(budget, unit, protect)
        self._model, self._budget, self._unit = model, budget, unit
        self._loader = PassageLoader(model, MemoryStore() if store is None else store)
        self._policy = make_policy(policy, model)
        self._count = token_counter(model.tokenizer) if count_tokens is None else count_tokens

    def extract(self, question: str, passages: Sequence[str]) -> list[Excerpt]:
        """Takes from each passage what the question needs, under one budget for all of them.

        Args:
            question: What the user asks.
            passages: Texts, in any order; all are compared with each other.

        Returns:
            One excerpt per passage, in order; "" for a passage of which nothing is read. Their
            tokens together are within the budget, except for what is protected. A budget that
            holds nothing at all is logged as a warning.

        Raises:
            EmptyInputError: If the question is empty.
        """
        if not question.strip():
            raise EmptyInputError("the question is empty; pass what the user asks")
        # Stores know passages without the white space around them.
        before = [len(text) - len(text.lstrip()) for text in passages]
        made = self._extract(question, [text.strip() for text in passages])
        return [each.moved(by) for each, by in zip(made, before, strict=True)]

    def _extract(self, question: str, passages: Sequence[str]) -> list[Excerpt]:
        limit = self._limit(passages)
        cuts = self._cut(question, passages, limit)
        scores = [piece.score for pieces in cuts for piece in pieces]
        if not scores:
            return [Excerpt("", (), 0.0) for _ in passages]
        owner = np.repeat(np.arange(len(cuts)), [len(pieces) for pieces in cuts])
        first = owner.searchsorted(np.arange(len(cuts)))
        chosen = self._chosen(passages, cuts, limit)
        read: list[list[int]] = [[] for _ in passages]
        for i in itertools.chain(*chosen):
            read[owner[i]].append(int(i - first[owner[i]]))

        def made(n: int) -> Excerpt:
            best = max((piece.score for piece in cuts[n]), default=0.0)
            return excerpt(passages[n], cuts[n], read[n], best)

        # Pieces are counted alone; joined, with their gaps, they may take a few tokens more.
        excerpts = [made(n) for n in range(len(passages))]
        tokens = [self._tokens(each) for each in excerpts]
        for together in reversed(chosen):
            if sum(tokens) <= limit:
                break
            n = int(owner[together[0]])
            for piece in (int(i - first[n]) for i in together):
                if not cuts[n][piece].protected:
                    read[n].remove(piece)
            excerpts[n] = made(n)
            tokens[n] = self._tokens(excerpts[n])
        if limit > 0 and not any(read):
            logger.warning("a budget of %g tokens holds nothing of the passages", limit)
        return excerpts

    def _tokens(self, made: Excerpt) -> int:
        return self._count([made.text])[0] if made.text else 0

    def _cut(self, question: str, passages: Sequence[str], limit: float) -> list[list[Piece]]:
        """Pieces of each passage with their scores."""
        loaded = [each.vectors for each in self._loader.load([PassagePart(t) for t in passages])]
        if not sum(vectors.n_chunks for vectors in loaded):
            return [[] for _ in passages]
        (encoded,) = encode_questions(self._model, [(question, self._policy)])
        scores = self._policy.scores(PolicyInputs(loaded, encoded))
        ends = np.cumsum([vectors.n_chunks for vectors in loaded])
        of_passages = np.split(scores, ends[:-1])
        cuts = []
        for chunked, of_chunks in zip(
            self._model.chunker.chunk(passages), of_passages, strict=True
        ):
            first, last = chunked.bounds.T
            bounds = np.stack([chunked.offsets[first, 0], chunked.offsets[last, 1]], axis=1)
            pieces = (
                cut(chunked.text, bounds, of_chunks, self._unit, self._protected)
                if len(of_chunks)
                else []
            )
            cuts.append(self._fitting(pieces, chunked.text, bounds, of_chunks, limit))
        return cuts

    def _fitting(
        self,
        pieces: list[Piece],
        text: str,
        bounds: np.ndarray,
        scores: np.ndarray,
        limit: float,
    ) -> list[Piece]:
        """The pieces, with words in place of those that could never be read as a whole.

        The sentence that answers is worth more in part than others are as a whole.
        """
        heads = {piece.head for piece in pieces}
        rooms = [limit / 2 if piece.start in heads else limit for piece in pieces]
        # A token has at least a byte.
        long = [
            piece
            for piece, room in zip(pieces, rooms, strict=True)
            if not piece.protected and len(text[piece.start : piece.end].encode()) > room
        ]
        counts = self._count([text[piece.start : piece.end] for piece in long]) if long else ()
        of_long = dict(zip(long, counts, strict=True))
        fitting: list[Piece] = []
        let_go = set()  # a head that leaves its rows no room
        for piece, room in zip(pieces, rooms, strict=True):
            if of_long.get(piece, 0) <= room:
                fitting.append(piece)
            else:
                let_go.add(piece.start)
                fitting += in_words(piece, text, bounds, scores)
        return [replace(p, head=None) if p.head in let_go else p for p in fitting]

    def _chosen(
        self, passages: Sequence[str], cuts: Sequence[Sequence[Piece]], limit: float
    ) -> list[tuple[int, ...]]:
        """Indices of the pieces of all passages that are read, see ``best_pieces``."""
        # With the white space before it, which most tokenizers make part of a word's first token.
        texts: list[str] = []
        heads: list[int] = []
        for text, pieces in zip(passages, cuts, strict=True):
            starts = [p.start for p in pieces[:1]] + [p.end for p in pieces[:-1]]
            places: dict[int | None, int] = {p.start: len(texts) + i for i, p in enumerate(pieces)}
            heads += [-1 if p.head is None else places[p.head] for p in pieces]
            texts += [text[start : p.end] for start, p in zip(starts, pieces, strict=True)]
        scores = np.array([p.score for pieces in cuts for p in pieces])
        protected = np.array([p.protected for pieces in cuts for p in pieces], dtype=bool)
        if self._budget == "auto":  # what is worth reading is read, however long it is
            worth = np.where(protected | (scores >= falling_point(scores)), 0, 1)
            worth[[head for head in heads if head >= 0]] = 0
            return best_pieces(scores, protected, worth, np.array(heads), 0)
        tokens = np.asarray(self._count(texts))
        return best_pieces(scores, protected, tokens, np.array(heads), limit)

    def _limit(self, passages: Sequence[str]) -> float:
        """Most tokens of all excerpts together."""
        if self._budget == "auto":
            return float("inf")
        if self._budget > 1:
            return self._budget
        return self._budget * sum(self._count(list(passages)))


def check_excerpts(budget: object, unit: object, protect: Sequence[str]) -> list[re.Pattern[str]]:
    """Checks what a user gives, before any model is loaded; returns the compiled expressions.

    Raises:
        BudgetError: If the budget is neither a number as ``Excerpter`` takes it nor "auto".
        ValueError: If the unit is neither, or a regular expression is none or not in a list.
    """
    known = budget == "auto"
    if isinstance(budget, int | float) and not isinstance(budget, bool):
        known = 0.0 <= budget <= 1.0 or (isinstance(budget, int) and budget >= 2)
    if not known:
        msg = (
            f"budget {shown(budget)} is not a fraction of the tokens (0..1, such as 0.25), a "
            "number of tokens (an int of at least 2, such as 1000) or 'auto'"
        )
        raise BudgetError(msg)
    if unit not in UNITS:
        raise ValueError(f"unit {shown(unit)} is not {' or '.join(map(repr, UNITS))}")
    if isinstance(protect, str):
        msg = f"protect: {shown(protect)} is one text, give a list of regular expressions"
        raise ValueError(msg)
    try:
        return [re.compile(pattern) for pattern in protect]
    except re.error as error:
        msg = f"protect: {shown(error.pattern)} is not a regular expression: {error}"
        raise ValueError(msg) from error
