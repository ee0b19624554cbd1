"""Questions with passages, and the contexts that they are asked over."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from refrag_components.checking import checked, parse_json
from refrag_components.corpus.conversations import UNANSWERABLE
from refrag_components.corpus.tokenised import open_text
from refrag_components.exceptions import EvaluationError

__all__ = ["KINDS", "LABEL", "Question", "Turn", "load_questions", "set_name"]

#: What an answer is, in the order in which they are told apart.
KINDS = ("unanswerable", "yes/no", "free text", "number", "exact string", "phrase")

#: The kind of a text that is to be labelled.
LABEL = "label"

_SMALL_WORDS = {"a", "an", "and", "de", "for", "in", "of", "on", "or", "the", "to", "von"}
_CODE = re.compile(r"[A-Za-z][._/\\-][A-Za-z]|[a-z][A-Z]|[_@/\\]")


@dataclass(frozen=True)
class Turn:
    """An earlier turn of a conversation.

    Attributes:
        question: What was asked.
        answer: What was answered.
        passages: Passages that were shown with it.
    """

    question: str
    answer: str
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One question of a set.

    Attributes:
        id: Unique in its set.
        text: The question.
        answers: Right answers; none if the passages do not answer it.
        kind: One of ``KINDS``, or ``LABEL``.
        needed: Passages that answer it, or that it was asked about.
        others: Other passages that came with it: natural distractors.
        standalone: False if it makes no sense without its passage.
        needed_ids: Ids of ``needed`` in their file: questions that share one are not independent
            evidence.
        titles: Titles of ``needed``, "" where a passage has none.
        history: The turns before it, if it was asked in a conversation.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    needed: tuple[str, ...]
    others: tuple[str, ...]
    standalone: bool = True
    needed_ids: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()

    @property
    def now(self) -> tuple[str, ...]:
        """Its passages that no earlier turn has shown."""
        earlier = {text for turn in self.history for text in turn.passages}
        return tuple(text for text in (*self.needed, *self.others) if text not in earlier)

    @property
    def target(self) -> str:
        """The answer whose log-perplexity is measured: the shortest right one."""
        return min(self.answers, key=len, default=UNANSWERABLE)

    @property
    def seed(self) -> int:
        """A number that depends on the question alone."""
        return zlib.crc32(self.id.encode(errors="surrogatepass"))


def set_name(path: str | Path) -> str:
    """Name of the set that a file holds: its name without ``.jsonl`` and ``.zst``."""
    return Path(path).name.removesuffix(".zst").removesuffix(".jsonl")


def load_questions(path: str | Path, *, items: int | None = 500) -> list[Question]:
    """Reads questions from ``.jsonl`` or ``.jsonl.zst``.

    A line is an object with ``id``, ``question``, ``answers`` (none for an unanswerable one),
    ``passages`` (``id``, ``text`` and perhaps ``title``) and ``gold`` (ids of those that answer);
    ``type`` ("yesno", "extractive", "abstractive", "summary"), ``meta`` ("standalone", "related")
    and ``history`` are optional. The history is a list of earlier turns, the first one first, each
    with ``question``, ``answer`` and perhaps ``passages``, ids of those that it showed.

    Args:
        path: The file.
        items: Questions to use, spread evenly over the file; None uses all.

    Raises:
        EvaluationError: If the file is missing, empty or holds something else.
    """
    try:
        with open_text(Path(path)) as lines:
            records = list(lines)
    except (OSError, ValueError) as error:
        msg = f"cannot read questions from {path}: {error}"
        raise EvaluationError(msg) from error
    if not records:
        msg = f"{path} holds no questions; pass a .jsonl file with one question per line"
        raise EvaluationError(msg)
    picked = range(len(records))
    if items is not None and items < len(records):
        picked = np.linspace(0, len(records) - 1, items).round().astype(int).tolist()
    questions = []
    for number in picked:
        try:
            questions.append(_question(checked(_Record, parse_json(records[number]))))
        except ValueError as error:
            msg = (
                f'{path}, line {number + 1}: expected an object with "id", "question", "answers", '
                f'"passages" and "gold" ({error})'
            )
            raise EvaluationError(msg) from error
    if blank := [question.id for question in questions if not question.text]:
        msg = f"{path}: the question of {blank[0]} is empty; leave such lines out"
        raise EvaluationError(msg)
    if len({question.id for question in questions}) < len(questions):
        msg = f"{path} uses an id twice; results are kept by id, so give each question its own"
        raise EvaluationError(msg)
    return questions


class _Passage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: int | str
    text: str
    title: str | None = None


class _Meta(BaseModel):
    model_config = ConfigDict(extra="ignore")

    standalone: bool | None = None
    related: tuple[int | str, ...] = ()


class _Turn(BaseModel):
    model_config = ConfigDict(extra="ignore")

    question: str = Field(pattern=r"\S")
    answer: str | int | float
    passages: tuple[int | str, ...] = ()


class _Record(BaseModel):
    """A line of a file; other entries are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    id: int | str
    question: str
    answers: tuple[str | int | float, ...]
    passages: tuple[_Passage, ...]
    gold: tuple[int | str, ...]
    type: str | None = None
    meta: _Meta | None = None
    history: tuple[_Turn, ...] = ()


def _question(record: _Record) -> Question:
    meta = record.meta or _Meta()
    needed = {*record.gold, *meta.related}
    passages = [passage for passage in record.passages if passage.text.strip()]
    gold: dict[str, _Passage] = {}
    for passage in passages:
        if passage.id in needed:
            gold.setdefault(passage.text, passage)
    answers = tuple(str(answer) for answer in record.answers)
    return Question(
        id=str(record.id),
        text=record.question.strip(),
        answers=answers,
        kind=_kind(answers, record.type or ""),
        needed=tuple(gold),
        others=tuple(dict.fromkeys(p.text for p in passages if p.id not in needed)),
        standalone=meta.standalone is not False,
        needed_ids=tuple(str(p.id) for p in gold.values()),
        titles=tuple(p.title or "" for p in gold.values()),
        history=tuple(_turn(turn, passages) for turn in record.history),
    )


def _turn(turn: _Turn, passages: Sequence[_Passage]) -> Turn:
    shown = dict.fromkeys(p.text for p in passages if p.id in turn.passages)
    return Turn(turn.question.strip(), str(turn.answer).strip() or UNANSWERABLE, tuple(shown))


def _kind(answers: Sequence[str], kind: str) -> str:
    if not answers:
        return "unanswerable"
    if kind == "yesno":
        return "yes/no"
    if kind in ("abstractive", "summary"):
        return "free text"
    shortest = min(answers, key=len)
    if any(character.isdigit() for character in shortest):
        return "number"
    words = [word for word in shortest.split() if word.lower() not in _SMALL_WORDS]
    named = bool(words) and all(word.lstrip("\"'(")[:1].isupper() for word in words)
    return "exact string" if named or _CODE.search(shortest) else "phrase"
