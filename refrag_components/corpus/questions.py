"""Questions over passages, tokenised ahead, and the conversations that are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from refrag_components.checking import checked, parse_json
from refrag_components.corpus.tokenised import TokenisedCorpus
from refrag_components.exceptions import TrainingError

__all__ = ["ARRAYS", "ASKED", "PASSAGES", "Conversation", "ConversationSpec", "QuestionSet"]

#: Folder of the passages as a tokenised corpus; the questions as text; the arrays beside them.
PASSAGES = "passages"
ASKED = "questions.json"
ARRAYS = (
    "lengths",
    "text",
    "text_lengths",
    "conversations",
    "turns",
    "candidates",
    "separator",
)

_DRAWN_AT_ONCE = 16
_CHOICE = 2  # batches that are drawn to make one of rows of similar length


@dataclass(frozen=True, kw_only=True)
class ConversationSpec:
    """What the conversations of one batch look like.

    Attributes:
        chunk_size: Tokens a chunk (k).
        expanded: Fraction p of the chunks of the last turn's passages that enter as tokens, drawn
            at random. Passages of earlier turns stay compressed, unless p is 1.
        run: Neighbouring chunks that are drawn together; whole passages if it is large.
        favour: How much likelier chunks of the passages that answer expand, and less likely the
            others (``shares``). While p is at most 1 / favour, that is p in all among
            ``favour + 1`` passages with one that answers.
        passages: Passages a turn: those that answer the question and distractors.
        max_tokens: Most passage tokens a conversation; what does not fit is left out, distractors
            and earlier turns first.
    """

    chunk_size: int
    expanded: float
    run: int = 1
    favour: float = 1.0
    passages: int = 5
    max_tokens: int = 2048

    def shares(self, needed: np.ndarray) -> np.ndarray:
        """How likely a chunk of each passage expands, at most 1.

        Args:
            needed: True for the passages that answer.
        """
        likely: np.ndarray = self.expanded * np.where(needed, self.favour, 1 / self.favour)
        return likely.clip(max=1)


@dataclass(frozen=True, eq=False)
class Conversation:
    """One conversation, drawn but not laid out yet.

    Attributes:
        texts: Token ids of the text before, between and after the turns' passages; one more than
            there are turns.
        passages: Numbers of the passages that each turn shows, in prompt order.
        needed: Numbers of the passages that answer the last turn, or that it was asked about
            where none does.
        answer: Token ids of the answer.
        question: What the last turn asks.
    """

    texts: list[np.ndarray]
    passages: list[np.ndarray]
    needed: np.ndarray
    answer: np.ndarray
    question: str

    @cached_property
    def supporting(self) -> list[np.ndarray]:
        """True for the passages of each turn that are ``needed``; for all where none is shown.

        An earlier turn may be left without any.
        """
        masks = [np.isin(shown, self.needed) for shown in self.passages]
        return masks if any(map(np.any, masks)) else [~mask for mask in masks]


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions that ``refrag train questions`` prepared.

    Attributes:
        corpus: Passages as documents.
        asked: What each conversation's last turn asks.
        lengths: Tokens of each passage, shape (passages,); 0 for one without any.
        text: Token ids of all conversations' texts and answers.
        text_lengths: How long each is: a conversation's texts in order, then its answer.
        conversations: Turns that show passages, and number of the source file, (n, 2).
        turns: Passages that answer the turn's question, and other candidates; counts, (turns, 2).
        candidates: Numbers of each turn's passages in that order.
        separator: Token ids between two passages.
    """

    corpus: TokenisedCorpus
    asked: list[str]
    lengths: np.ndarray
    text: np.ndarray
    text_lengths: np.ndarray
    conversations: np.ndarray
    turns: np.ndarray
    candidates: np.ndarray
    separator: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> QuestionSet:
        """Opens a folder that ``refrag train questions`` wrote.

        Raises:
            TrainingError: If it is none.
        """
        try:
            arrays = {
                name: np.load(Path(folder) / f"{name}.npy", allow_pickle=False) for name in ARRAYS
            }
            asked = checked(list[str], parse_json((Path(folder) / ASKED).read_bytes()))
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            msg = f"{folder} holds no questions ({error}); make it with `refrag train questions`"
            raise TrainingError(msg) from error
        return cls(TokenisedCorpus.load(Path(folder) / PASSAGES), asked, **arrays)

    def __len__(self) -> int:
        """Number of conversations."""
        return len(self.conversations)

    @cached_property
    def starts(self) -> np.ndarray:
        """First token of each passage in the corpus, shape (passages,)."""
        taken = self.lengths + (self.lengths > 0)  # a passage and its separator
        return np.cumsum(taken) - taken

    def draw(
        self, count: int, spec: ConversationSpec, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draws conversations; each file counts with the square root of its size."""
        return [self._draw(spec, rng) for _ in range(count)]

    def fill(
        self,
        positions: int,
        spec: ConversationSpec,
        rng: np.random.Generator,
        *,
        with_full_text: bool = False,
    ) -> list[Conversation]:
        """Draws conversations of similar length for one batch, so that little is padded.

        Args:
            positions: Decoder positions of the batch, padding included, about.
            spec: What they look like.
            rng: Source of randomness.
            with_full_text: Whether the supporting passages pass through the decoder in full too.
                Their positions count a third: nothing is kept of them for a backward pass.
        """
        drawn: list[Conversation] = []
        sizes: list[float] = []
        while sum(sizes) < _CHOICE * positions:
            more = self.draw(_DRAWN_AT_ONCE, spec, rng)
            drawn += more
            sizes += [self._positions(row, spec, with_full_text) for row in more]
        order = np.argsort(sizes, kind="stable")
        rows = np.maximum(positions // np.asarray(sizes)[order], 1).astype(int)
        longest = int(rng.choice(np.flatnonzero(np.arange(1, len(order) + 1) >= rows)))
        return [drawn[i] for i in order[longest + 1 - rows[longest] : longest + 1]]

    def _positions(self, row: Conversation, spec: ConversationSpec, with_full_text: bool) -> float:
        text = sum(map(len, row.texts)) + len(row.answer)
        shown = np.concatenate(row.passages)
        lengths = np.minimum(self.lengths[shown], spec.max_tokens)
        shares = spec.shares(np.isin(shown, row.needed))
        each = shares + (1 - shares) / spec.chunk_size
        positions = text + float(each @ lengths)
        if with_full_text and spec.expanded < 1:
            positions += (text + float(lengths[np.concatenate(row.supporting)].sum())) / 3
        return positions

    def _draw(self, spec: ConversationSpec, rng: np.random.Generator) -> Conversation:
        own = self._files[int(np.searchsorted(self._shares, rng.random()))]
        n = int(own[int(rng.integers(len(own)))])
        first = int(self._first_turn[n])
        stop = first + int(self.conversations[n, 0])
        # A conversation has one text more than turns, and its answer.
        texts = range(first + 2 * n, stop + 2 * n + 2)
        *segments, answer = [self.text[self._text_starts[i] : self._text_ends[i]] for i in texts]
        room = spec.max_tokens
        passages = []
        for turn in reversed(range(first, stop)):
            shown = self._show(turn, spec, room, rng)
            room -= int(np.minimum(self.lengths[shown], spec.max_tokens).sum())
            passages.append(shown)
        begin = self._first_candidate[stop - 1]
        needed = self.candidates[begin : begin + self.turns[stop - 1, 0]]
        return Conversation(segments, passages[::-1], needed, answer, self.asked[n])

    def _show(
        self, turn: int, spec: ConversationSpec, room: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Passages of one turn in random order."""
        needed, others = self.turns[turn]
        middle = self._first_candidate[turn] + needed
        order = np.concatenate(
            [
                rng.permutation(self.candidates[middle - needed : middle]),
                rng.permutation(self.candidates[middle : middle + others]),
            ]
        )[: spec.passages]
        lengths = np.minimum(self.lengths[order], spec.max_tokens)
        return rng.permutation(order[(lengths > 0) & (np.cumsum(lengths) <= room)])

    @cached_property
    def _files(self) -> list[np.ndarray]:
        source = self.conversations[:, 1]
        return [np.flatnonzero(source == i) for i in np.unique(source)]

    @cached_property
    def _shares(self) -> np.ndarray:
        roots = np.sqrt([len(own) for own in self._files])
        return np.cumsum(roots[:-1]) / roots.sum()

    @cached_property
    def _first_turn(self) -> np.ndarray:
        return np.cumsum(self.conversations[:, 0]) - self.conversations[:, 0]

    @cached_property
    def _first_candidate(self) -> np.ndarray:
        counts = self.turns.sum(axis=1)
        return np.cumsum(counts) - counts

    @cached_property
    def _text_ends(self) -> np.ndarray:
        return np.cumsum(self.text_lengths)

    @cached_property
    def _text_starts(self) -> np.ndarray:
        return self._text_ends - self.text_lengths
