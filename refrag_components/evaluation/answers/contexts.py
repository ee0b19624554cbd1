"""Which passages a question is asked over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.exceptions import EvaluationError

__all__ = ["Context", "Setting", "draw_contexts"]

Retrieval = Literal["given", "strong", "weak"]

_WEAK_FROM = 50  # the paper draws from the best 200 of 400M passages; pools here are smaller


@dataclass(frozen=True)
class Setting:
    """Where the passages of a context come from, and how many there are.

    Attributes:
        retrieval: "given": the passages that answer the question and distractors (those that came
            with it, then the most similar of the pool), shuffled. "strong": the most similar of
            the pool, best first. "weak": as many at random among the 50 most similar.
        passages: Passages a context, at least 1; fewer where the pool is smaller.

    Raises:
        EvaluationError: If either is none of these.
    """

    retrieval: Retrieval = "given"
    passages: int = 5

    def __post_init__(self) -> None:
        """Checks both."""
        if self.retrieval not in get_args(Retrieval):
            choices = ", ".join(get_args(Retrieval))
            msg = f"retrieval must be one of {choices}, got {self.retrieval!r}"
            raise EvaluationError(msg)
        most = _WEAK_FROM if self.retrieval == "weak" else 1000
        if not 1 <= self.passages <= most:
            msg = f"{self.retrieval} retrieval takes 1 to {most} passages, got {self.passages}"
            raise EvaluationError(msg)

    @property
    def name(self) -> str:
        """Both in one word."""
        return f"{self.retrieval}-{self.passages}"


@dataclass(frozen=True)
class Context:
    """A question and its passages.

    Attributes:
        question: The question.
        passages: Passages in prompt order, each once.
        similar: Indices of the passages, the most similar to the question first.
    """

    question: Question
    passages: tuple[str, ...]
    similar: tuple[int, ...]


def draw_contexts(
    questions: Sequence[Question], setting: Setting, pool: PassagePool
) -> list[Context]:
    """Puts passages beside questions, the same ones each time.

    Args:
        questions: Questions of one set. Those that make no sense without their own passage are
            left out where passages are retrieved.
        setting: Where passages come from.
        pool: The passages to search; it must hold those of the questions.

    Raises:
        EvaluationError: If no question is left.
    """
    given = setting.retrieval == "given"
    asked = [question for question in questions if given or question.standalone]
    if not asked:
        msg = (
            f"no question makes sense without its own passage, so {setting.retrieval} retrieval "
            "cannot be measured here; use given passages"
        )
        raise EvaluationError(msg)
    vectors = pool.embed_questions([question.text for question in asked])
    # Enough to fill up with even if the question's own passages are all among them.
    own = max((len(q.needed) + len(q.others) for q in asked), default=0)
    found = pool.search(vectors, max(_WEAK_FROM, setting.passages + own))
    contexts = []
    for question, vector, candidates in zip(asked, vectors, found, strict=True):
        passages = _choose(question, setting, candidates)
        order = np.argsort(-pool.similarity(vector, passages), kind="stable")
        contexts.append(Context(question, tuple(passages), tuple(order.tolist())))
    return contexts


def _choose(question: Question, setting: Setting, candidates: Sequence[str]) -> list[str]:
    count = setting.passages
    rng = np.random.default_rng([question.seed, count])
    if setting.retrieval == "strong":
        return list(candidates[:count])
    if setting.retrieval == "weak":
        best = candidates[:_WEAK_FROM]
        picked = rng.choice(len(best), size=min(count, len(best)), replace=False)
        return [best[i] for i in sorted(picked)]
    others = list(question.others)
    rng.shuffle(others)
    passages = list(dict.fromkeys([*question.needed, *others, *candidates]))[:count]
    rng.shuffle(passages)
    return passages
