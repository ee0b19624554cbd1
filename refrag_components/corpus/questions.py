"""Questions over passages, tokenised ahead, and the conversations that are drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from refrag_components.cached import cached_property
from refrag_components.checking import did_you_mean
from refrag_components.corpus.tokenised import TokenisedCorpus
from refrag_components.exceptions import TrainingError

__all__ = [
    "ARRAYS",
    "LONGEST_PASSAGE",
    "META",
    "PASSAGES",
    "Conversation",
    "QuestionSet",
    "SetMeta",
]

#: Folder of the passages as a tokenised corpus; what the set is made of; the arrays next to them.
PASSAGES = "passages"
META = "questions.json"
ARRAYS = (
    "lengths",
    "rarity",
    "text",
    "text_lengths",
    "asked",
    "asked_lengths",
    "conversations",
    "turns",
    "candidates",
    "separator",
)

#: Tokens of a passage that are shown; the rest is cut off.
LONGEST_PASSAGE = 512


class SetMeta(BaseModel):
    """What a folder of prepared questions says of itself.

    Attributes:
        format: Version of the folder's format.
        sets: Names of the source files in order.
        questions: What each conversation's last turn asks.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: int = Field(default=2, ge=2, le=2)
    sets: list[str]
    questions: list[str]


@dataclass(frozen=True, eq=False)
class Conversation:
    """One conversation, drawn but not laid out yet.

    Attributes:
        texts: Token ids of the text before, between and after the turns' passages; one more than
            there are turns.
        passages: Numbers of the passages that each turn shows, in prompt order.
        needed: Numbers of the passages that answer the last turn, or that it was asked about
            if none does.
        answer: Token ids of the answer.
        question: What the last turn asks.
        question_ids: Token ids of the last turn's question as they would stand in a text.
        further: More questions that the last turn's passages answer, and their answers, likewise.
        answering: Numbers of the passages that answer these or are ``needed``.
    """

    texts: list[np.ndarray]
    passages: list[np.ndarray]
    needed: np.ndarray
    answer: np.ndarray
    question: str
    question_ids: np.ndarray
    further: Sequence[tuple[np.ndarray, np.ndarray]]
    answering: np.ndarray


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions that ``refrag train questions`` prepared.

    Attributes:
        corpus: Passages as documents.
        meta: Names of the sets, and the questions as text.
        lengths: Tokens of each passage, shape (passages,); 0 for one without any.
        rarity: How rare each token is, log(passages / passages that have it) and at least 0,
            (vocabulary,), float32.
        text: Token ids of all conversations' texts and answers.
        text_lengths: How long each is: a conversation's texts in order, then its answer.
        asked: Token ids of each conversation's last question, with a space before it.
        asked_lengths: How long each is.
        conversations: Turns that show passages, and number of the source file, (n, 2).
        turns: Passages that answer the turn's question, and other candidates; counts, (turns, 2).
        candidates: Numbers of each turn's passages in that order.
        separator: Token ids between two passages.
        held_out: Numbers of the source files that are not drawn from.
    """

    corpus: TokenisedCorpus
    meta: SetMeta
    lengths: np.ndarray
    rarity: np.ndarray
    text: np.ndarray
    text_lengths: np.ndarray
    asked: np.ndarray
    asked_lengths: np.ndarray
    conversations: np.ndarray
    turns: np.ndarray
    candidates: np.ndarray
    separator: np.ndarray
    held_out: tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> QuestionSet:
        """Opens a folder that ``refrag train questions`` wrote.

        Raises:
            TrainingError: If it is something else or was written by another release.
        """
        try:
            text = (Path(folder) / META).read_text(encoding="utf-8")
            meta = SetMeta.model_validate_json(text)
            arrays = {
                name: np.load(Path(folder) / f"{name}.npy", allow_pickle=False) for name in ARRAYS
            }
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            msg = (
                f"{folder} holds no questions that this release reads ({error}); prepare them "
                "again with `refrag train questions`"
            )
            raise TrainingError(msg) from error
        return cls(TokenisedCorpus.load(Path(folder) / PASSAGES), meta, **arrays)

    @classmethod
    def joined(cls, parts: Sequence[QuestionSet]) -> QuestionSet:
        """Several prepared sets as one.

        A question's own passages and distractors stay those of its part; what fills a conversation
        up may come from any.

        Args:
            parts: Sets of one tokenizer, at least one.

        Raises:
            TrainingError: If they were cut by different tokenizers, or two hold a set of one name.
        """
        first, *others = parts
        if not others:
            return first
        names = [name for part in parts for name in part.meta.sets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise TrainingError(f"the set {twice[0]} is in two of the folders; give one of them")
        if any(part.corpus.tokenizer != first.corpus.tokenizer for part in others):
            raise TrainingError("the questions were prepared for the tokenizers of two decoders")
        numbered = {
            "candidates": [len(part.lengths) for part in parts],
            "conversations": [len(part.meta.sets) for part in parts],
        }
        arrays = {name: [getattr(part, name) for part in parts] for name in ARRAYS}
        for name, counts in numbered.items():
            starts = np.cumsum(counts) - counts
            arrays[name] = [
                values + (start if values.ndim == 1 else np.array([0, start]))
                for values, start in zip(arrays[name], starts.tolist(), strict=True)
            ]
        # A rarity comes from the passages that have a token, and one more.
        having = [len(part.lengths) * np.exp(-part.rarity) - 1 for part in parts]
        rarity = np.log(sum(numbered["candidates"]) / (1 + np.sum(having, axis=0))).clip(min=0)
        joined: dict[str, Any] = {name: np.concatenate(each) for name, each in arrays.items()}
        joined |= {"rarity": rarity.astype(np.float32), "separator": first.separator}
        tokens = np.concatenate([part.corpus.tokens for part in parts])
        questions = [question for part in parts for question in part.meta.questions]
        return cls(
            TokenisedCorpus(tokens, first.corpus.tokenizer),
            SetMeta(sets=names, questions=questions),
            **joined,
        )

    def __len__(self) -> int:
        """Number of conversations."""
        return len(self.conversations)

    def without(self, names: Sequence[str]) -> QuestionSet:
        """The same set, except that nothing is drawn from the files with these names.

        Raises:
            TrainingError: If there is no such file, or none is left.
        """
        for name in names:
            if name not in self.meta.sets:
                guess = did_you_mean(name, self.meta.sets)
                msg = f"held_out names {name!r}, of which there are no questions; {guess}"
                raise TrainingError(msg)
        numbers = tuple(self.meta.sets.index(name) for name in names)
        chosen = replace(self, held_out=numbers)
        if not chosen._files:
            raise TrainingError("held_out leaves no questions to train on")
        return chosen

    def passage(self, number: int) -> np.ndarray:
        """Token ids of a passage, cut to ``LONGEST_PASSAGE``; shape (n,), int64."""
        start = int(self._starts[number])
        tokens = self.corpus.tokens[start : start + int(self.shown_lengths[number])]
        return np.asarray(tokens, dtype=np.int64)

    @cached_property
    def shown_lengths(self) -> np.ndarray:
        """Tokens of each passage that are shown, shape (passages,)."""
        return np.minimum(self.lengths, LONGEST_PASSAGE)

    def draw(
        self, passages: int, max_tokens: int, rng: np.random.Generator, *, most: int = 1
    ) -> Conversation:
        """Draws a conversation; each file counts with the square root of its size.

        Args:
            passages: Passages per turn: those that answer the question, distractors that a search
                would return, then any.
            max_tokens: Most passage tokens; what does not fit is left out, distractors and earlier
                turns first.
            rng: Source of randomness.
            most: Most questions that the last turn's passages answer.
        """
        numbers = self._files[int(np.searchsorted(self._shares, rng.random()))]
        n = int(numbers[int(rng.integers(len(numbers)))])
        first = int(self._first_turn[n])
        stop = first + int(self.conversations[n, 0])
        # A conversation has one text more than turns, and its answer.
        texts = range(first + 2 * n, stop + 2 * n + 2)
        *segments, answer = [self.text[self._text_starts[i] : self._text_ends[i]] for i in texts]
        shown = []
        for turn in reversed(range(first, stop)):
            picked = self._show(turn, passages, max_tokens, rng)
            max_tokens -= int(self.shown_lengths[picked].sum())
            shown.append(picked)
        needed = self._needed(n)
        about = self._about(shown[0], rng) if most > 1 else []
        further = [i for i in about if i != n][: most - 1]
        return Conversation(
            segments,
            shown[::-1],
            needed,
            answer,
            self.meta.questions[n],
            self._question_ids(n),
            [(self._question_ids(i), self._answer(i)) for i in further],
            np.unique(np.concatenate([needed, *map(self._needed, further)])),
        )

    def _question_ids(self, n: int) -> np.ndarray:
        end = int(self._asked_ends[n])
        return self.asked[end - int(self.asked_lengths[n]) : end]

    def _answer(self, n: int) -> np.ndarray:
        last = int(self._first_turn[n] + self.conversations[n, 0]) + 2 * n + 1
        return self.text[self._text_starts[last] : self._text_ends[last]]

    def _about(self, shown: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Conversations of one turn that some passages answer, in random order."""
        there = set(shown.tolist())
        found = {n for number in there for n in self._answered_by.get(number, ())}
        whole = [n for n in sorted(found) if there.issuperset(self._needed(n).tolist())]
        return [int(n) for n in rng.permutation(whole)]

    def _needed(self, n: int) -> np.ndarray:
        turn = int(self._first_turn[n] + self.conversations[n, 0]) - 1
        begin = self._first_candidate[turn]
        return self.candidates[begin : begin + self.turns[turn, 0]]

    @cached_property
    def _answered_by(self) -> dict[int, list[int]]:
        """The conversations of one turn that need a passage, by its number."""
        answered: dict[int, list[int]] = {}
        for n in np.sort(np.concatenate(self._files)).tolist():
            if self.conversations[n, 0] == 1:
                for number in self._needed(n).tolist():
                    answered.setdefault(number, []).append(n)
        return answered

    def _show(self, turn: int, passages: int, room: int, rng: np.random.Generator) -> np.ndarray:
        """Passages of one turn in random order."""
        needed, others = self.turns[turn]
        middle = self._first_candidate[turn] + needed
        order = np.concatenate(
            [
                rng.permutation(self.candidates[middle - needed : middle]),
                rng.permutation(self.candidates[middle : middle + others]),
            ]
        )
        if len(order) < passages:
            any_other = rng.integers(len(self.lengths), size=passages - len(order))
            order = np.concatenate([order, np.setdiff1d(any_other, order)])
        order = order[:passages]
        lengths = self.shown_lengths[order]
        return rng.permutation(order[(lengths > 0) & (np.cumsum(lengths) <= room)])

    @cached_property
    def _starts(self) -> np.ndarray:
        """First token of each passage in the corpus, shape (passages,)."""
        taken = self.lengths + (self.lengths > 0)  # a passage and its separator
        return np.cumsum(taken) - taken

    @cached_property
    def _files(self) -> list[np.ndarray]:
        source = self.conversations[:, 1]
        numbers = [i for i in np.unique(source).tolist() if i not in self.held_out]
        return [np.flatnonzero(source == i) for i in numbers]

    @cached_property
    def _shares(self) -> np.ndarray:
        roots = np.sqrt([len(numbers) for numbers in self._files])
        return np.cumsum(roots[:-1]) / roots.sum()

    @cached_property
    def _first_turn(self) -> np.ndarray:
        return np.cumsum(self.conversations[:, 0]) - self.conversations[:, 0]

    @cached_property
    def _first_candidate(self) -> np.ndarray:
        counts = self.turns.sum(axis=1)
        return np.cumsum(counts) - counts

    @cached_property
    def _asked_ends(self) -> np.ndarray:
        return np.cumsum(self.asked_lengths)

    @cached_property
    def _text_ends(self) -> np.ndarray:
        return np.cumsum(self.text_lengths)

    @cached_property
    def _text_starts(self) -> np.ndarray:
        return self._text_ends - self.text_lengths
