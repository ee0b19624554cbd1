"""The passages over which a question is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.messages import messages
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.exceptions import EvaluationError
from refrag_components.prompts.parts import Message

__all__ = ["PLACES", "RETRIEVALS", "Context", "Place", "Setting", "draw_contexts"]

Retrieval = Literal["given", "strong", "diverse", "weak", "turn", "document", "examples"]
Place = Literal["start", "middle", "end"]

_WEAK_FROM = 50  # the paper draws from the best 200 of 400M passages; pools here are smaller

_CANDIDATES = 100
_DIVERSITY = 0.3

#: What each kind of retrieval puts into a context, in words.
RETRIEVALS: Mapping[Retrieval, str] = {
    "given": "the right ones among distractors",
    "strong": "the most similar",
    "weak": f"random of the {_WEAK_FROM} most similar",
    "diverse": f"those of the {_CANDIDATES} most similar that differ most (MMR, {_DIVERSITY:g})",
}

#: Where the passages that answer a question may stand.
PLACES: tuple[Place, ...] = ("start", "middle", "end")

_BUILT = ("turn", "document", "examples")  # contexts that nothing is retrieved for


@dataclass(frozen=True)
class Setting:
    """Where the passages of a context come from, and how many there are.

    Attributes:
        retrieval: "given": the passages that answer the question and distractors (those that came
            with it, then the most similar in the pool), shuffled. "strong": the most similar in
            the pool, best first. "diverse": of the 100 most similar as many as differ most, by
            maximal marginal relevance. "weak": as many at random from the 50 most similar. "turn",
            "document" and "examples": nothing is retrieved; the context is a conversation, a whole
            document, or examples of answers.
        passages: Passages per context, at least 1; fewer if the pool is smaller. The number of a
            turn or of examples; 1 for a document.
        place: Where the passages that answer stand among given ones; None for anywhere.

    Raises:
        EvaluationError: If either is out of range.
    """

    retrieval: Retrieval = "given"
    passages: int = 5
    place: Place | None = None

    def __post_init__(self) -> None:
        """Checks all values."""
        if self.retrieval not in (*RETRIEVALS, *_BUILT):
            choices = ", ".join(RETRIEVALS)
            msg = f"retrieval must be one of {choices}, got {self.retrieval!r}"
            raise EvaluationError(msg)
        limit = _WEAK_FROM if self.retrieval == "weak" else 1000
        if not 1 <= self.passages <= limit:
            msg = f"{self.retrieval} retrieval takes 1 to {limit} passages, got {self.passages}"
            raise EvaluationError(msg)
        if self.place not in (None, *PLACES):
            choices = ", ".join(PLACES)
            raise EvaluationError(f"a place must be one of {choices}, got {self.place!r}")
        if self.place is not None and self.retrieval != "given":
            msg = "passages that answer can be placed only among given ones, not among found ones"
            raise EvaluationError(msg)

    @property
    def name(self) -> str:
        """All in one word."""
        name = f"{self.retrieval}-{self.passages}"
        return name if self.place is None else f"{name}-{self.place}"


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

    @property
    def identity(self) -> tuple[str, ...]:
        """All texts that an answer depends on, for a digest."""
        question = self.question
        return (
            question.id,
            question.text,
            *question.answers,
            *self.passages,
            *question.needed,
        )

    def messages(self, *, shown: bool = True) -> list[Message]:
        """The prompt, with its passages in order or without any."""
        return messages(self.question.text, self.passages if shown else ())


def draw_contexts(
    questions: Sequence[Question], settings: Sequence[Setting], pool: PassagePool
) -> list[list[Context]]:
    """Draws passages for questions, the same ones every time.

    The pool is searched once for all settings.

    Args:
        questions: Questions of one set. Those that make no sense without their passage are left out
            in settings with retrieval.
        settings: Where passages come from.
        pool: The passages to search; it must contain those of the questions.

    Returns:
        The contexts of each setting.

    Raises:
        EvaluationError: If a setting has no question left.
    """
    for setting in settings:
        if setting.retrieval != "given" and not any(question.standalone for question in questions):
            msg = (
                f"no question makes sense without its passage, so {setting.retrieval} "
                "retrieval cannot be measured here; use given passages"
            )
            raise EvaluationError(msg)
    vectors = pool.embed_questions([question.text for question in questions])
    # Enough candidates even if all of the question's passages are among them.
    with_question = max((len(q.needed) + len(q.others) for q in questions), default=0)
    wanted = max((setting.passages for setting in settings), default=0)
    found = pool.search(vectors, max(_CANDIDATES, wanted + with_question))
    drawn: list[list[Context]] = []
    for setting in settings:
        contexts = []
        for question, vector, candidates in zip(questions, vectors, found, strict=True):
            if setting.retrieval != "given" and not question.standalone:
                continue
            if setting.retrieval == "diverse":
                best = candidates[: max(_CANDIDATES, setting.passages)]
                passages = pool.differing(vector, best, setting.passages, _DIVERSITY)
            else:
                passages = _choose(question, setting, candidates)
            order = np.argsort(-pool.similarity(vector, passages), kind="stable")
            contexts.append(Context(question, tuple(passages), tuple(order.tolist())))
        drawn.append(contexts)
    return drawn


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
    if setting.place is None:
        return passages
    answering = [text for text in passages if text in question.needed]
    others = [text for text in passages if text not in question.needed]
    before = {"start": 0, "middle": len(others) // 2, "end": len(others)}[setting.place]
    return [*others[:before], *answering, *others[before:]]
