"""A question's prompt, and the decoder rows that can be made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from refrag_components.cached import cached_property
from refrag_components.engines.layout import positions_per_chunk, token_positions
from refrag_components.generation.choosing import Choice, Chunks, choose
from refrag_components.policies import FractionBudget, PolicyInputs, PositionBudget, Rest

__all__ = ["Prompt", "Row", "on_rung"]


@dataclass(frozen=True, eq=False)
class Row:
    """One decoder input and the answer that is expected after it.

    Attributes:
        token_ids: Token at each position, 0 at a chunk embedding; shape (n,), int64.
        chunk_index: Row in the table of chunk embeddings at each position, -1 at a token; shape
            (n,).
        answer_ids: Tokens of the expected answer, at least one; shape (m,).
        prompt_index: For each position of the context, the index in the uncompressed prompt that it
            comes from, -1 outside the context; shape (n,).
        cut: Whether the context was cut because it did not fit the decoder's window.
    """

    token_ids: np.ndarray
    chunk_index: np.ndarray
    answer_ids: np.ndarray
    prompt_index: np.ndarray
    cut: bool = False

    @property
    def context_positions(self) -> int:
        """Positions that the context takes."""
        return int((self.prompt_index >= 0).sum())

    @property
    def text_spans(self) -> list[np.ndarray]:
        """What is read of the context as text: the token ids of each contiguous span."""
        is_text = (self.prompt_index >= 0) & (self.chunk_index < 0)
        follows = np.diff(self.prompt_index, prepend=-2) == 1
        begins = is_text & ~(follows & np.r_[False, is_text[:-1]])
        span = np.cumsum(begins)[is_text]
        bounds = np.flatnonzero(np.diff(span)) + 1
        tokens = self.token_ids[is_text]
        return np.split(tokens, bounds) if len(tokens) else []


@dataclass(frozen=True, eq=False)
class Prompt:
    """The uncompressed prompt of one question, and where its chunks are.

    Attributes:
        token_ids: Tokens of the whole prompt, shape (n,), int64.
        chunk_of: Chunk of this prompt that each token belongs to, -1 for text; shape (n,).
        passage_of: Passage of each token; for text, the passage after it; shape (n,).
        between: True for the text between two passages; shape (n,), bool.
        chunk_rows: For each rung of the checkpoint, ascending, the row of each chunk in the table
            of chunk embeddings; shape (n_chunks,) each.
        lengths: Tokens of each chunk; shape (n_chunks,).
        bare_ids: Tokens of the prompt without context.
        answer_ids: Tokens of the answer whose log-perplexity is measured.
        similar: Indices of the passages, the most similar to the question first.
        answering: True for the passages that answer the question, or that it was asked about;
            shape (passages,), bool.
        inputs: What a policy sees.
        limit: Maximum number of positions of the context, so that an answer fits the window too; at
            least one per chunk.
        scores: Scores of all chunks by the name of the selection.
    """

    token_ids: np.ndarray
    chunk_of: np.ndarray
    passage_of: np.ndarray
    between: np.ndarray
    chunk_rows: Mapping[int, np.ndarray]
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

    @cached_property
    def chunks(self) -> Chunks:
        """The chunks, as the generator chooses among them."""
        first = np.flatnonzero(self.in_context & (np.diff(self.chunk_of, prepend=-1) != 0))
        counts = np.bincount(self.passage_of[first], minlength=len(self.similar))
        return Chunks(counts, self.lengths, tuple(self.chunk_rows))

    def chosen(
        self, selection: str, budget: FractionBudget | PositionBudget, rest: Rest = "compress"
    ) -> Choice:
        """What becomes of the chunks by the scores of a selection, as in the generator.

        Args:
            selection: Name of the selection; ``scores`` must contain it.
            budget: How much may expand, or enter.
            rest: What becomes of chunks that do not expand.
        """
        return choose(self.scores[selection], self.chunks, budget, rest, self.limit)

    def most_similar(self, room: int) -> np.ndarray:
        """Selects the passages most similar to the question, at most ``room`` tokens.

        The passages are whole, except that the first one that does not fit is truncated.

        Returns:
            A mask, True at selected tokens, shape (n,), bool.
        """
        selected = np.zeros(len(self.token_ids), dtype=bool)
        for passage in self.similar:
            tokens = np.flatnonzero(self.in_context & (self.passage_of == passage))[:room]
            selected[tokens] = True
            room -= len(tokens)
        return selected

    def best_chunks(self, scores: np.ndarray, room: int) -> np.ndarray:
        """Selects the chunks with the highest scores, at most ``room`` tokens.

        The chunks are whole, except that the first one that does not fit is truncated.

        Returns:
            A mask, True at selected tokens, shape (n,), bool.
        """
        order = self.chunks.best(scores)
        before = np.zeros(len(order), dtype=np.int64)
        before[order] = np.cumsum(self.lengths[order]) - self.lengths[order]
        inside = np.flatnonzero(self.in_context)
        chunk = self.chunk_of[inside]
        in_chunk = np.arange(len(inside)) - (np.cumsum(self.lengths) - self.lengths)[chunk]
        selected = np.zeros(len(self.token_ids), dtype=bool)
        selected[inside[before[chunk] + in_chunk < room]] = True
        return selected

    def bare(self, *, cut: bool = False) -> Row:
        """The prompt without passages."""
        outside = np.full(len(self.bare_ids), -1)
        return Row(self.bare_ids, outside, self.answer_ids, outside, cut)

    def as_text(self, selected: np.ndarray, *, cut: bool = False) -> Row:
        """The prompt with a part of its context, all of it as text.

        A passage of which nothing is selected is left out together with the separator between it
        and the next one; if nothing at all is selected, the result is the prompt without passages.

        Args:
            selected: True for the tokens of the context that are read, shape (n,), bool.
            cut: Whether more was asked for than fits the window.
        """
        return self._row(selected, np.full(len(self.token_ids), -1), cut)

    def laid_out(self, choice: Choice, *, cut: bool = False) -> Row:
        """The prompt with some chunks as tokens and chunk embeddings for others.

        Args:
            choice: What becomes of each chunk.
            cut: Whether more was asked to expand than fits the window.
        """
        chunks = self.chunks
        group = (choice.rungs // chunks.rungs[0])[chunks.passage]
        positions = positions_per_chunk(choice.expanded, chunks.lengths, group, chunks.index)
        rows = np.full(len(chunks.lengths), -1)
        for rung, of_rung in self.chunk_rows.items():
            here = (choice.rungs == rung)[chunks.passage]
            rows[here] = of_rung[here]
        inside = self.in_context
        read, index = inside.copy(), np.full(len(inside), -1)
        read[inside], index[inside] = token_positions(
            chunks.lengths, choice.expanded, positions, rows
        )
        return self._row(read, index, cut)

    def _row(self, read: np.ndarray, chunk_index: np.ndarray, cut: bool) -> Row:
        """The prompt with the masked positions of its context, shape (n,), bool.

        Args:
            read: True where the context has a position.
            chunk_index: Row of the table of chunk embeddings, -1 at a token; shape (n,).
            cut: Whether more was asked for than fits the window.
        """
        if not read.any():
            return self.bare(cut=cut)
        present = np.zeros(len(self.similar) + 1, dtype=bool)
        present[self.passage_of[read]] = True
        # The text between passages is read only if there is a passage on both sides.
        earlier = np.cumsum(present) - present > 0
        separates = present[self.passage_of] & earlier[self.passage_of]
        shown = np.flatnonzero(read | (~self.in_context & (~self.between | separates)))
        index = chunk_index[shown]
        return Row(
            token_ids=np.where(index < 0, self.token_ids[shown], 0),
            chunk_index=index,
            answer_ids=self.answer_ids,
            prompt_index=np.where(read[shown], shown, -1),
            cut=cut,
        )


def on_rung(choice: Choice, rung: int | None) -> Choice:
    """The same chunks expand; the rest of every passage is on another rung.

    Args:
        choice: What becomes of the chunks.
        rung: Tokens per chunk embedding; 0 drops the rest, None leaves everything as it is.
    """
    return choice if rung is None else replace(choice, rungs=np.full_like(choice.rungs, rung))
