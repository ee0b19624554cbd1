"""Questions over passages, laid out exactly as at query time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from refrag_components.corpus.cloze import ClozeForm
from refrag_components.corpus.questions import Conversation, QuestionSet
from refrag_components.corpus.rows import Row, ShownPassage, run_tokens

__all__ = ["KINDS", "UNANSWERABLE", "Kind", "lay_out"]

#: What the model says if the passages hold no answer.
UNANSWERABLE = "The context does not say."

#: What expands of the last turn's passages: nothing; random runs of tokens; a passage that does
#: not answer, while the answer stays compressed; runs that share rare words with the question;
#: most of the passages that answer; as "rare", with the best passages on the finest rung and the
#: worst on the coarsest or dropped; as "rare", with the rest dropped, except that of passages
#: that answer and show nothing, and in half of the rows that of the best passage; everything.
Kind = Literal["compressed", "runs", "wrong", "rare", "gold", "ladder", "dropped", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MISJUDGED = 0.3  # of the conversations rank their runs with noise, as a policy does
_NOISE = 4.0  # standard deviation of that noise, in nats of rarity
_GOLD, _BESIDE = 0.6, 0.04  # of the runs expand in passages that answer and in the others
_DROPS = 0.3  # of the ladders drop their worst passages
_KEEPS_BEST = 0.5  # of those that drop the rest keep that of the best passage

#: True for each run of a passage that expands, shape (runs,), given its number and runs.
Choice = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The runs of the last turn's passages, those that share the rarest words first.

    Attributes:
        passages: Number of each run's passage.
        runs: Place of each run in its passage.
        tokens: Tokens of each run.
    """

    passages: np.ndarray
    runs: np.ndarray
    tokens: np.ndarray

    def best(self, share: float) -> set[tuple[int, int]]:
        """The first runs that together have this share of the tokens."""
        before = np.cumsum(self.tokens) - self.tokens
        picked = before < share * self.tokens.sum()
        return set(zip(self.passages[picked].tolist(), self.runs[picked].tolist(), strict=True))


def lay_out(
    row: Conversation,
    questions: QuestionSet,
    *,
    kind: Kind,
    share: float,
    rung: int,
    rungs: Sequence[int],
    rng: np.random.Generator,
    form: ClozeForm | None = None,
    taught: bool = False,
) -> Row:
    """Lays a conversation out; the loss counts on the answers alone.

    Passages of earlier turns stay compressed on ``rung``, unless everything is text.

    Args:
        row: Drawn from ``questions``.
        questions: Hold the passages.
        kind: What expands.
        share: Of the last turn's tokens that expand, for "runs", "rare", "ladder" and "dropped".
        rung: Tokens per chunk embedding.
        rungs: All rungs of the checkpoint, ascending.
        rng: Draws what expands.
        form: How a chat goes on; needed if the conversation has further questions.
        taught: Whether a reader of the last turn's passages that answer, as text and without the
            others, says how likely each token of the answers is. It reads what matters, so that
            it is right more often than a reader of everything.
    """
    run = run_tokens(rungs)
    expands, row_rungs = _choose(row, questions, kind, share, rungs, rng)
    parts: list[np.ndarray | ShownPassage] = [row.texts[0]]
    for turn, (shown, text) in enumerate(zip(row.passages, row.texts[1:], strict=True)):
        last = turn == len(row.passages) - 1
        passages = [
            _shown(number, questions, row_rungs.get(number, rung), run, expands)
            if last or kind == "text"
            else _shown(number, questions, rung, run, _nothing)
            for number in shown.tolist()
        ]
        visible = [passage for passage in passages if passage.has_position.any()]
        for i, passage in enumerate(visible):
            parts += [questions.separator] if i else []
            parts.append(passage)
        parts.append(text)
    tail, counted = [row.answer], [np.ones(len(row.answer), dtype=bool)]
    for question, answer in row.further:
        assert form is not None
        # The first token of what stands between two turns has closed the answer.
        between = np.concatenate([form.again[1:], form.without_space(question), form.reply])
        tail += [between, answer]
        counted += [np.zeros(len(between), dtype=bool), np.ones(len(answer), dtype=bool)]
    predicted = np.concatenate(tail)
    return Row(
        parts,
        tail=predicted,
        counted=np.concatenate(counted),
        imitated=len(predicted) if taught else None,
        every=0,
        read=_answering(row, questions) if taught else None,
    )


def _answering(row: Conversation, questions: QuestionSet) -> np.ndarray:
    """The prompt as text, with only those passages in its last turn that answer, if any does."""
    *before, last = row.passages
    answering = last[np.isin(last, row.answering)]
    parts = [row.texts[0]]
    for shown, text in zip(
        [*before, answering if len(answering) else last], row.texts[1:], strict=True
    ):
        for i, number in enumerate(shown.tolist()):
            parts += [questions.separator] if i else []
            parts.append(questions.passage(number))
        parts.append(text)
    return np.concatenate(parts)


def _shown(
    number: int, questions: QuestionSet, rung: int, run: int, expands: Choice
) -> ShownPassage:
    tokens = questions.passage(number)
    chosen = expands(number, -(-len(tokens) // run))
    by_token = chosen.repeat(run)[: len(tokens)]
    return ShownPassage(tokens, by_token, rung, key=number)


def _choose(
    row: Conversation,
    questions: QuestionSet,
    kind: Kind,
    share: float,
    rungs: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Choice, dict[int, int]]:
    """What expands, and the rungs of passages that have one of their own."""
    shown, needed = row.passages[-1].tolist(), set(row.needed.tolist())
    if kind == "compressed":
        return _nothing, {}
    if kind == "text":
        return lambda _, runs: np.ones(runs, dtype=bool), {}
    if kind == "runs":
        return lambda _, runs: rng.random(runs) < share, {}
    if kind == "gold":
        return lambda n, runs: rng.random(runs) < (_GOLD if n in needed else _BESIDE), {}
    if kind == "wrong":
        others = [number for number in shown if number not in needed]
        wrong = others[int(rng.integers(len(others)))] if others else None
        return lambda n, runs: np.full(runs, n == wrong), {}
    ranking = _rank(row, questions, run_tokens(rungs), rng)
    best = ranking.best(share)
    row_rungs: dict[int, int] = {}
    if kind == "ladder":
        row_rungs = _ladder(ranking, rungs, rng)
    elif kind == "dropped":
        kept = needed - {number for number, _ in best}
        if rng.random() < _KEEPS_BEST:
            kept.update(ranking.passages[:1].tolist())
        row_rungs = {number: rungs[0] if number in kept else 0 for number in shown}
    return lambda n, runs: np.array([(n, run) in best for run in range(runs)], bool), row_rungs


def _nothing(_: int, runs: int) -> np.ndarray:
    return np.zeros(runs, dtype=bool)


def _rank(
    row: Conversation, questions: QuestionSet, run_length: int, rng: np.random.Generator
) -> _Ranking:
    passages, runs, tokens, scores = [], [], [], []
    for number in row.passages[-1].tolist():
        ids = questions.passage(number)
        for run, start in enumerate(range(0, len(ids), run_length)):
            of_run = ids[start : start + run_length]
            passages.append(number)
            runs.append(run)
            tokens.append(len(of_run))
            scores.append(float(questions.rarity[np.intersect1d(of_run, row.question_ids)].sum()))
    noise = _NOISE * rng.normal(size=len(scores)) * (rng.random() < _MISJUDGED)
    order = np.argsort(-(np.array(scores) + noise), kind="stable")
    return _Ranking(
        *(np.array(column, dtype=np.int64)[order] for column in (passages, runs, tokens))
    )


def _ladder(ranking: _Ranking, rungs: Sequence[int], rng: np.random.Generator) -> dict[int, int]:
    """Rungs of the passages, finer for better ones; 0 for those that are dropped."""
    by_rank = list(dict.fromkeys(ranking.passages.tolist()))
    cuts = np.sort(rng.integers(0, len(by_rank) + 1, size=len(rungs)))
    rest = 0 if rng.random() < _DROPS else rungs[-1]
    return {
        number: next((rung for rung, cut in zip(rungs, cuts, strict=True) if i <= cut), rest)
        for i, number in enumerate(by_rank)
    }
