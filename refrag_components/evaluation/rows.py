"""A question's prompt, and the decoder rows that can be made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from refrag_components.generation.choosing import choose
from refrag_components.policies import FractionBudget, PolicyInputs

__all__ = ["Prompt", "Row"]


@dataclass(frozen=True, eq=False)
class Row:
    """One decoder input and the answer that is expected after it.

    Attributes:
        token_ids: Token at each position, 0 under a chunk embedding; shape (n,), int64.
        chunk_index: Row in the table of chunk embeddings at each position, -1 under a token;
            shape (n,).
        answer_ids: Tokens of the expected answer, at least one; shape (m,).
        places: Place in the uncompressed prompt that each position of the context comes from, -1
            outside the context; shape (n,).
        cut: Whether the context was cut because it did not fit the decoder's window.
    """

    token_ids: np.ndarray
    chunk_index: np.ndarray
    answer_ids: np.ndarray
    places: np.ndarray
    cut: bool = False

    @property
    def context_positions(self) -> int:
        """Positions that the context takes."""
        return int((self.places >= 0).sum())

    @property
    def stretches(self) -> list[np.ndarray]:
        """What of the context is read as text: the tokens of each unbroken stretch."""
        is_text = (self.places >= 0) & (self.chunk_index < 0)
        follows = np.diff(self.places, prepend=-2) == 1
        begins = is_text & ~(follows & np.r_[False, is_text[:-1]])
        stretch = np.cumsum(begins)[is_text]
        borders = np.flatnonzero(np.diff(stretch)) + 1
        tokens = self.token_ids[is_text]
        return np.split(tokens, borders) if len(tokens) else []


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompt of one question, uncompressed, and where its chunks are.

    Attributes:
        token_ids: Tokens of the whole prompt, shape (n,), int64.
        chunk_of: Chunk of this prompt that each token belongs to, -1 for text; shape (n,).
        passage_of: Passage of each token; for text the passage after it. Shape (n,).
        between: True for the text between two passages; shape (n,), bool.
        chunk_rows: Row of each chunk in the table of chunk embeddings; shape (n_chunks,).
        lengths: Tokens of each chunk; shape (n_chunks,).
        bare_ids: Tokens of the prompt without a context.
        answer_ids: Tokens of the answer whose log-perplexity is measured.
        similar: Indices of the passages, the most similar to the question first.
        answering: True for the passages that answer the question, or that it was asked about;
            shape (passages,), bool.
        inputs: What a policy sees.
        limit: Most positions that the context may take so that an answer fits the window too; at
            least one per chunk.
        scores: Every selection's score of each chunk, by its name.
    """

    token_ids: np.ndarray
    chunk_of: np.ndarray
    passage_of: np.ndarray
    between: np.ndarray
    chunk_rows: np.ndarray
    lengths: np.ndarray
    bare_ids: np.ndarray
    answer_ids: np.ndarray
    similar: tuple[int, ...]
    answering: np.ndarray
    inputs: PolicyInputs
    limit: int
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def context_tokens(self) -> int:
        """Tokens of all passages."""
        return int(self.lengths.sum())

    @property
    def in_context(self) -> np.ndarray:
        """True for the tokens of passages; shape (n,), bool."""
        inside: np.ndarray = self.chunk_of >= 0
        return inside

    def expanded(self, selection: str, fraction: float) -> tuple[np.ndarray, bool]:
        """The chunks that a selection expands.

        Args:
            selection: Its name; the prompt must hold its scores.
            fraction: Fraction p of the chunks.

        Returns:
            True where a chunk expands, shape (n_chunks,), bool; and whether these are fewer than
            p asks for because no more fit the window, as the generator has it.
        """
        scores = self.scores[selection]
        chosen, warnings = choose(scores, self.lengths, FractionBudget(fraction), self.limit)
        return chosen, bool(warnings)

    def positions(self, expanded: np.ndarray) -> int:
        """Positions of a context some of whose chunks expand, shape (n_chunks,), bool."""
        return int(np.where(expanded, self.lengths, 1).sum())

    def most_similar(self, room: int) -> np.ndarray:
        """Tokens of the passages most similar to the question, ``room`` tokens at most.

        The passages are whole; the first one that is too long gives its beginning.

        Returns:
            True for the tokens that are kept, shape (n,), bool.
        """
        kept = np.zeros(len(self.token_ids), dtype=bool)
        for passage in self.similar:
            own = np.flatnonzero(self.in_context & (self.passage_of == passage))[:room]
            kept[own] = True
            room -= len(own)
        return kept

    def best_chunks(self, scores: np.ndarray, room: int) -> np.ndarray:
        """Tokens of the chunks with the highest scores, ``room`` tokens at most.

        The chunks are whole; the first one that is too long gives its beginning.

        Returns:
            True for the tokens that are kept, shape (n,), bool.
        """
        order = np.argsort(-scores, kind="stable")
        before = np.zeros(len(order), dtype=np.int64)
        before[order] = np.cumsum(self.lengths[order]) - self.lengths[order]
        inside = np.flatnonzero(self.in_context)
        chunk = self.chunk_of[inside]
        in_chunk = np.arange(len(inside)) - (np.cumsum(self.lengths) - self.lengths)[chunk]
        kept = np.zeros(len(self.token_ids), dtype=bool)
        kept[inside[before[chunk] + in_chunk < room]] = True
        return kept

    def bare(self, *, cut: bool = False) -> Row:
        """The prompt as it is without passages."""
        outside = np.full(len(self.bare_ids), -1)
        return Row(self.bare_ids, outside, self.answer_ids, outside, cut)

    def as_text(self, kept: np.ndarray, *, cut: bool = False) -> Row:
        """The prompt with a part of its context, all of it text.

        A passage of which nothing is left disappears together with what separated it from the
        next; with the last one the prompt is that without passages.

        Args:
            kept: True for the tokens of the context that stay, shape (n,), bool.
            cut: Whether more was wanted than fits the window.
        """
        if not kept.any():
            return self.bare(cut=cut)
        present = np.zeros(len(self.similar) + 1, dtype=bool)
        present[self.passage_of[kept]] = True
        # The text between passages stays where there is a passage on both sides.
        earlier = np.cumsum(present) - present > 0
        separates = present[self.passage_of] & earlier[self.passage_of]
        shown = np.flatnonzero(kept | (~self.in_context & (~self.between | separates)))
        return Row(
            token_ids=self.token_ids[shown],
            chunk_index=np.full(len(shown), -1),
            answer_ids=self.answer_ids,
            places=np.where(kept[shown], shown, -1),
            cut=cut,
        )

    def compressed(self, expanded: np.ndarray, *, cut: bool = False) -> Row:
        """The prompt with chunk embeddings for all chunks but some.

        Args:
            expanded: True where a chunk enters as tokens, shape (n_chunks,), bool.
            cut: Whether more was to expand than fits the window.
        """
        inside = self.in_context
        hidden = inside & ~expanded[self.chunk_of]
        begins = inside & (np.diff(self.chunk_of, prepend=-1) != 0)
        shown = np.flatnonzero(~hidden | begins)  # of a compressed chunk one position is left
        is_chunk = hidden[shown]
        return Row(
            token_ids=np.where(is_chunk, 0, self.token_ids[shown]),
            chunk_index=np.where(is_chunk, self.chunk_rows[self.chunk_of[shown]], -1),
            answer_ids=self.answer_ids,
            places=np.where(inside[shown], shown, -1),
            cut=cut,
        )
