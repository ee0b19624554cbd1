"""What a record is, and what a collection of records can do."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

from refrag_components.exceptions import CorruptVectorsError, InvalidVectorsError
from refrag_components.vectors import ChunkVectors, passage_key, unit_rows

__all__ = [
    "CANDIDATES",
    "FoundRecord",
    "OfTenant",
    "Record",
    "RecordCollection",
    "found_record",
    "question",
    "tenant_id",
]

logger = logging.getLogger(__name__)

#: Passages that late interaction compares if nobody says otherwise.
CANDIDATES = 100


@dataclass(frozen=True, eq=False)
class Record:
    """A passage with everything that is stored of it.

    Attributes:
        text: The passage.
        vector: Its passage vector, shape (d,), float32; it is scaled to length 1.
        chunk_vectors: Its chunk vectors.
        token_vectors: One vector per token of the search encoder, shape (n, d), float32, each
            scaled to length 1; None if late interaction is not wanted.
        metadata: Anything that JSON can hold.

    Raises:
        InvalidVectorsError: If a vector is not finite or has another shape.
        ValueError: If there is no text.
    """

    text: str
    vector: np.ndarray
    chunk_vectors: ChunkVectors
    token_vectors: np.ndarray | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a record needs a text")
        vector, tokens = question(self.vector, self.token_vectors)
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "token_vectors", tokens)

    @property
    def key(self) -> str:
        """Names text and model: ``passage_key`` of the text without white space around it."""
        return passage_key(self.text.strip(), self.chunk_vectors.fingerprint)


@dataclass(frozen=True)
class FoundRecord:
    """A record that a search found.

    Attributes:
        text: The passage.
        score: Cosine of passage vector and question, or, of late interaction, the mean over the
            question's token vectors of the best cosine with a token vector of the passage; -1 to 1.
        key: Its key, by which it can be deleted.
        chunk_vectors: Its chunk vectors; None if what is stored is damaged.
        metadata: What was stored with it; empty if that is damaged.
    """

    text: str
    score: float
    key: str
    chunk_vectors: ChunkVectors | None
    metadata: dict[str, Any]


def tenant_id(tenant: str) -> str:
    """32 characters for a tenant of any name, which can end or widen no query and no path."""
    return hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()


class OfTenant:
    """A collection of one tenant, of which a copy with another name serves another.

    Attributes:
        tenant: Whose records are written and read.
    """

    tenant: str

    def for_tenant(self, tenant: str) -> Self:
        """The same collection for another tenant."""
        other = copy.copy(self)
        other.tenant = tenant
        return other


class RecordCollection(Protocol):
    """Records of one tenant in a database; other tenants' are out of its reach.

    The errors of the database's client are raised as ``StoreError``.
    """

    @property
    def tenant(self) -> str:
        """Whose records these are."""

    def for_tenant(self, tenant: str) -> Self:
        """The same collection for another tenant; costs nothing."""

    def put(self, records: Sequence[Record]) -> None:
        """Stores records; one with the same text and model is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit what the database stores.
            StoreError: If the database refuses, for example vectors of another width.
        """

    def search(
        self,
        vector: np.ndarray,
        token_vectors: np.ndarray | None = None,
        *,
        k: int = 10,
        candidates: int = CANDIDATES,
    ) -> list[FoundRecord]:
        """Finds passages, with their chunk vectors, in one round trip.

        Args:
            vector: The question's search vector, shape (d,).
            token_vectors: Its token vectors, shape (n, d), for late interaction: the
                ``candidates`` passages with the nearest passage vectors are then ordered by these.
                Passages without token vectors are left out.
            k: Passages to return, at most.
            candidates: Passages that late interaction compares.

        Returns:
            At most k, best first.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""


def question(
    vector: np.ndarray, token_vectors: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checks a search vector and token vectors, and scales each to length 1.

    Raises:
        InvalidVectorsError: If one is not finite, or has another shape.
    """
    row = np.asarray(vector, dtype=np.float32)
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise InvalidVectorsError(f"a search vector must be finite, (d,); got shape {row.shape}")
    unit = unit_rows(row[None])[0]
    if token_vectors is None:
        return unit, None
    rows = np.asarray(token_vectors, dtype=np.float32)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != len(row) or not np.isfinite(rows).all():
        msg = f"token vectors must be finite, (n, {len(row)}) like the search vector, n at least 1"
        raise InvalidVectorsError(f"{msg}; got shape {rows.shape}")
    return unit, unit_rows(rows)


def found_record(
    label: str,
    *,
    text: str,
    score: float,
    key: str,
    metadata: object,
    read: Callable[[str], ChunkVectors],
) -> FoundRecord:
    """A record as it was found; damage to its chunk vectors or its metadata costs only these.

    Args:
        label: Names the collection in a warning.
        text: The passage.
        score: Its score.
        key: Its key as it is stored.
        metadata: What was stored with it, or that as JSON.
        read: Reads the chunk vectors that are stored under a key.
    """
    about = _metadata(label, key, metadata)
    try:
        chunks = read(key)
        if passage_key(text.strip(), chunks.fingerprint) != key:
            raise CorruptVectorsError("its key is that of another text or model")
    except CorruptVectorsError as error:
        logger.warning("%s: chunk vectors of %s are damaged: %s", label, key, error)
        return FoundRecord(text, score, key, None, about)
    return FoundRecord(text, score, key, chunks, about)


def _metadata(label: str, key: str, stored: object) -> dict[str, Any]:
    try:
        read = json.loads(stored) if isinstance(stored, str | bytes) else stored
    except ValueError:
        read = None
    if isinstance(read, dict):
        return read
    logger.warning("%s: metadata of %s are damaged and left out", label, key)
    return {}
