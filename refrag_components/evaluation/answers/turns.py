"""Conversations: the turns before a question are its context, the last turn stays text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refrag_components.corpus.dialogues import build_conversations
from refrag_components.corpus.question_files import Question, Turn, load_questions
from refrag_components.evaluation.answers.contexts import Context, Setting
from refrag_components.evaluation.answers.results import Result
from refrag_components.exceptions import EvaluationError
from refrag_components.prompts.parts import Message, PassagePart, TextPart

__all__ = ["TurnContext", "by_turn", "load_turns", "where_shown"]

_INSTRUCTION = "Use the context to answer the user's questions. Be brief."
_BETWEEN = TextPart("\n\n")

Part = TextPart | PassagePart


@dataclass(frozen=True)
class TurnContext(Context):
    """A turn of a conversation.

    Its context is what came before: of each earlier turn its passages, its question and its answer,
    each one a passage of the prompt. What the turn itself shows is text in every row.
    """

    @classmethod
    def of(cls, question: Question) -> TurnContext:
        """The context of a question with its history; the latest part counts as most similar."""
        parts = tuple(part for turn in question.history for part in _parts(turn))
        return cls(question, parts, tuple(reversed(range(len(parts)))))

    @property
    def identity(self) -> tuple[str, ...]:
        """All texts that an answer depends on, for a digest."""
        return (*super().identity, *self.question.now)

    def messages(self, *, shown: bool = True) -> list[Message]:
        """The conversation as a chat, or its last turn alone."""
        said = [Message("system", (TextPart(_INSTRUCTION),))]
        for turn in self.question.history if shown else ():
            *passages, answer = (PassagePart(part) for part in _parts(turn))
            said += [Message("user", _joined(passages)), Message("assistant", (answer,))]
        now = list(self.question.now)
        np.random.default_rng(self.question.seed).shuffle(now)
        said.append(
            Message("user", _joined([TextPart(text) for text in (*now, self.question.text)]))
        )
        return said


def load_turns(path: str | Path, *, conversations: int | None, passages: int) -> list[Question]:
    """Reads conversations, or makes them from questions if the file has none.

    Args:
        path: A file as ``load_questions`` reads it. If any of its questions has a history, each
            line is one turn; otherwise conversations are made from the questions.
        conversations: Most conversations to use, spread evenly over the file; None uses all.
        passages: Passages that a turn of a made conversation shows if it needs a new one.

    Returns:
        Turns of all conversations, each with its history.

    Raises:
        EvaluationError: If the file cannot be read, or no three of its questions share an article
            or a passage.
    """
    questions = load_questions(path, items=None)
    if any(question.history for question in questions):
        groups: dict[tuple[str, ...], list[Question]] = {}
        for question in questions:
            first = question.history[0].question if question.history else question.text
            shown = question.history[0].passages if question.history else question.now
            groups.setdefault((first, *sorted(shown)), []).append(question)
        found = [tuple(turns) for turns in groups.values()]
    else:
        found = build_conversations(questions, passages=passages)
    if not found:
        msg = f"{path} holds no three questions on one article or passage; no conversation is made"
        raise EvaluationError(msg)
    if conversations is not None and conversations < len(found):
        picked = np.linspace(0, len(found) - 1, conversations).round().astype(int)
        found = [found[i] for i in picked]
    return [turn for turns in found for turn in turns]


def by_turn(questions: Sequence[Question]) -> list[tuple[Setting, list[Context]]]:
    """The contexts of each turn's number, from the second on: the first has no history.

    Raises:
        EvaluationError: If no question has a history.
    """
    numbers = sorted({len(question.history) + 1 for question in questions} - {1})
    if not numbers:
        raise EvaluationError("no question has a history, so that there is nothing to compress")
    return [
        (
            Setting("turn", number),
            [TurnContext.of(q) for q in questions if len(q.history) + 1 == number],
        )
        for number in numbers
    ]


def _parts(turn: Turn) -> tuple[str, ...]:
    return (*turn.passages, turn.question, turn.answer)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    joined: list[Part] = []
    for part in parts:
        joined += [_BETWEEN] if joined else []
        joined.append(part)
    return tuple(joined)


def where_shown(results: Sequence[Result], turns: Mapping[str, Sequence[Question]]) -> list[Result]:
    """Results again, apart for questions whose passage an earlier turn has shown, and for others.

    Args:
        results: Results of ``by_turn``.
        turns: The questions of each set.

    Returns:
        Results of sets with longer names.
    """
    now = {
        name: {q.id for q in questions if {*q.needed} & {*q.now}}
        for name, questions in turns.items()
    }
    apart = []
    for result in results:
        here = np.array([name in now[result.set] for name in result.ids])
        for mask, where in ((~here, "in the history"), (here, "in the last turn")):
            if mask.any():
                apart.append(replace(result.part(mask), set=f"{result.set}, passage {where}"))
    return apart
