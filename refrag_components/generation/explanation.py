"""What became of each character of a prompt, to show to a person."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.engines.layout import PassageSegment, TextSegment
from refrag_components.generation.explained_passage import ExplainedPassage, Fate, Piece
from refrag_components.generation.explanation_page import fragment, page
from refrag_components.generation.report import Report

if TYPE_CHECKING:
    from refrag_components.generation.requests import Prepared
    from refrag_components.text.chunking import Chunker

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, repr=False)
class Explanation:
    """A prompt as the decoder reads it; notebooks show it as a picture.

    Attributes:
        parts: Ordinary text and passages, in order: every character of the prompt with its chat
            template.
        report: What happened.
        question: What was asked.
        answer: What the decoder wrote; "" before it has.
        seconds: How long each step took, by what it is called.
    """

    parts: tuple[str | ExplainedPassage, ...]
    report: Report
    question: str = ""
    answer: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, for where nothing can be drawn."""
        report = self.report
        return (
            f"<{report.positions} positions; {report.context_tokens} tokens of passages in "
            f"{report.context_positions} of them>"
        )

    @property
    def passages(self) -> list[ExplainedPassage]:
        """The passages, in order."""
        return [part for part in self.parts if isinstance(part, ExplainedPassage)]

    @property
    def spans(self) -> list[tuple[str, bool | None]]:
        """The characters that were read, in order.

        Chunk by chunk with True if it expanded, group by group (a chunk on the finest rung) with
        False if it was compressed to one position, and None with ordinary text.
        """
        spans: list[tuple[str, bool | None]] = []
        for part in self.parts:
            if isinstance(part, str):
                spans.append((part, None))
            else:
                read = (piece for piece in part.pieces if piece.fate != "dropped")
                spans += [(piece.text, piece.fate == "expanded") for piece in read]
        return [span for span in spans if span[0]]

    def from_search(self, found: Sequence[tuple[str, float]]) -> Explanation:
        """The same with the source and score of each passage.

        Args:
            found: Both of each of the last passages of the prompt, in order; passages before them,
                such as earlier turns of a conversation, keep what they have.
        """
        named = iter(found)
        unnamed = len(self.passages) - len(found)
        parts: list[str | ExplainedPassage] = []
        for part in self.parts:
            if isinstance(part, ExplainedPassage):
                if unnamed > 0:
                    unnamed -= 1
                else:
                    source, score = next(named)
                    part = replace(part, source=source, score=score)
            parts.append(part)
        return replace(self, parts=tuple(parts))

    def to_html(self) -> str:
        """A whole page that loads nothing from anywhere."""
        return page(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page to a file.

        Raises:
            OSError: If it cannot be written.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8", errors="replace")

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return fragment(self)


def explain(prepared: Prepared, chunker: Chunker, question: str = "") -> Explanation:
    """Tells what became of each character of a prepared prompt.

    Args:
        prepared: The prompt.
        chunker: Cuts passages as they were cut for the prompt.
        question: What was asked.
    """
    parts: list[str | ExplainedPassage] = []
    scores = iter(prepared.scores)
    for segment, text in zip(prepared.layout.segments, prepared.texts, strict=True):
        if isinstance(segment, TextSegment):
            parts.append(text)
        else:
            parts.append(_passage(segment, text, chunker, next(scores, None)))
    return Explanation(tuple(filter(None, parts)), prepared.report, question)


def _passage(
    segment: PassageSegment, text: str, chunker: Chunker, scores: np.ndarray | None
) -> ExplainedPassage:
    cut = chunker.chunk([text])[0]
    bounds = [0, *cut.offsets[cut.bounds[:-1, 1], 1].tolist(), len(text)]
    chunks = len(segment.expanded)
    # A group's embedding is at its first chunk, and covers the group's text.
    begins = np.flatnonzero(segment.positions) if segment.group else np.arange(chunks)
    ends = np.append(begins[1:], chunks)
    pieces = [
        Piece(
            text[bounds[first] : bounds[end]],
            _fate(segment, first),
            int(segment.positions[first:end].sum()),
            None if scores is None else float(scores[first:end].max()),
        )
        for first, end in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    return ExplainedPassage(tuple(pieces), segment.vectors.n_tokens, segment.tokens_per_embedding)


def _fate(segment: PassageSegment, chunk: int) -> Fate:
    if segment.expanded[chunk]:
        return "expanded"
    return "compressed" if segment.group else "dropped"
