"""Texts to records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from refrag_components.records.base import Record
from refrag_components.vectors import ChunkVectors

__all__ = ["RecordModel", "make_records"]

_AT_ONCE = 64  # token vectors of 64 passages take some 25 MB


class RecordModel(Protocol):
    """What making records requires of a model; ``RefragModel`` provides it."""

    def encode_passages(self, texts: Sequence[str]) -> list[ChunkVectors]:
        """Chunk vectors of passages."""

    def search_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Search vectors of passages, shape (n, d), float32."""

    def search_token_vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Search vectors, and the token vectors of each passage."""


def make_records(
    model: RecordModel,
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    token_vectors: bool = False,
) -> Iterator[Record]:
    """Encodes passages, some at a time.

    Args:
        model: Makes all their vectors.
        texts: Passages that are not blank. White space around them is stored but not encoded.
        metadata: What is to be stored with each; nothing if None.
        token_vectors: Whether to make token vectors, for late interaction.

    Yields:
        A record per text, in order.

    Raises:
        ValueError: If there is not metadata for each text; or if a text is blank.
    """
    if metadata is not None and len(metadata) != len(texts):
        raise ValueError(f"{len(texts)} texts need as many metadata, got {len(metadata)}")
    about = iter(repeat({}) if metadata is None else metadata)
    for start in range(0, len(texts), _AT_ONCE):
        page = texts[start : start + _AT_ONCE]
        passages = [text.strip() for text in page]
        tokens: Sequence[np.ndarray | None]
        if token_vectors:
            vectors, tokens = model.search_token_vectors(passages)
        else:
            vectors, tokens = model.search_vectors(passages), [None] * len(page)
        chunks = model.encode_passages(passages)
        for each in zip(page, vectors, chunks, tokens, strict=True):
            yield Record(*each, next(about))
