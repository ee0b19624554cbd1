"""What an index requires of a model, and what it tells its users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from refrag_components.text.documents import Skipped
from refrag_components.vectors import ChunkVectors

__all__ = ["AddReport", "Hit", "IndexModel", "Progress"]


class IndexModel(Protocol):
    """What an index requires of a model; ``RefragModel`` provides it."""

    config: Any
    tokenizer: Any

    @property
    def fingerprint(self) -> str:
        """Names encoder, chunk size and tokenizer."""

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> list[ChunkVectors]:
        """Chunk vectors of passages."""

    def search_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Search vectors of passages, shape (n, d), float32."""

    def search_vector(self, text: str) -> np.ndarray:
        """Search vector of a question, shape (d,), float32."""


@dataclass
class AddReport:
    """What adding documents has done so far, or in all.

    Attributes:
        added: Documents that were new.
        updated: Documents that replaced an earlier version.
        unchanged: Documents that were indexed already.
        removed: Documents that are gone or can no longer be read.
        passages: Passages that were encoded for the added and updated documents.
        expected: Passages that this is expected to come to in the end, by the files that were
            read so far; at least ``passages``.
        skipped: Files that cannot be indexed, with reasons.
        warnings: Files that were read, but with something that may be wrong.
        absent: Folders that are not there, of which documents are still indexed: their drive may
            just not be mounted.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    passages: int = 0
    expected: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[Skipped] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def __add__(self, other: AddReport) -> AddReport:
        """What two runs have done together."""
        return AddReport(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


Progress = Callable[[AddReport], None]


@dataclass(frozen=True)
class Hit:
    """A passage that search found.

    Attributes:
        text: The passage.
        source: The metadata's "source", or else the path of its document.
        score: Cosine similarity to the question, -1 to 1.
        key: Its key in the store.
        metadata: Metadata of its document.
        sources: Of all documents that hold the passage, ``source`` first.
        page: The page of ``source`` on which it begins, from 1; None if that has no pages.
    """

    text: str
    source: str
    score: float
    key: str
    metadata: dict[str, Any]
    sources: tuple[str, ...] = ()
    page: int | None = None

    @property
    def place(self) -> str:
        """The source, with the page."""
        return self.source if self.page is None else f"{self.source}, page {self.page}"
