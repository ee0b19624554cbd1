"""Passages to chunk vectors: from a store where they are known, else from the encoder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.exceptions import RefragError
from refrag_components.prompts.parts import PassagePart
from refrag_components.vectors import ChunkVectors, passage_key

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.stores.base import ChunkStore

__all__ = ["LoadedPassage", "PassageLoader"]

_AT_ONCE = 32  # passages that are encoded before others may encode theirs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedPassage:
    """A passage's chunk vectors and where they came from.

    Attributes:
        vectors: The chunk vectors.
        cached: True if they came from a store, False if the passage had to be encoded.
        flaw: Why a store's chunk vectors could not be used, if it had any.
        store_error: What went wrong with the store itself, if anything did.
    """

    vectors: ChunkVectors
    cached: bool
    flaw: str | None = None
    store_error: str | None = None


class PassageLoader:
    """Loads the chunk vectors of passages and stores those it had to compute.

    A store only saves time: what it lacks, garbles or fails to deliver is encoded.

    Args:
        model: Encodes what no store knows.
        store: Store of the passages that do not name one themselves.
    """

    def __init__(self, model: RefragModel, store: ChunkStore) -> None:
        self._model = model
        self._store = store
        self._encoding = threading.Lock()

    def load(self, parts: Sequence[PassagePart]) -> list[LoadedPassage]:
        """Loads passages, each distinct one once.

        Args:
            parts: Passages, of any number of requests.

        Returns:
            One entry per part, in order.
        """
        stores = [self._store if part.store is None else part.store for part in parts]
        loaded: dict[tuple[int, str], LoadedPassage] = {}
        for store in {id(store): store for store in stores}.values():
            texts = [p.text for p, other in zip(parts, stores, strict=True) if other is store]
            distinct = list(dict.fromkeys(texts))
            for text, passage in zip(distinct, self._load_from(store, distinct), strict=True):
                loaded[id(store), text] = passage
        return [loaded[id(store), part.text] for part, store in zip(parts, stores, strict=True)]

    def _load_from(self, store: ChunkStore, texts: list[str]) -> list[LoadedPassage]:
        keys = [passage_key(text, self._model.fingerprint) for text in texts]
        error = None
        try:
            rows = store.mget(keys)
        except (RefragError, OSError) as raised:
            rows, error = [None] * len(keys), _described("read", raised)
        flaws = [None if row is None else self._flaw(row) for row in rows]
        usable = [None if flaw else row for row, flaw in zip(rows, flaws, strict=True)]
        missing = [i for i, row in enumerate(usable) if row is None]
        fresh = iter(self._encode([texts[i] for i in missing]))
        vectors = [next(fresh) if row is None else row for row in usable]
        if missing and error is None:
            try:
                store.mset([(keys[i], vectors[i]) for i in missing])
            except (RefragError, OSError) as raised:
                error = _described("written", raised)
        return [
            LoadedPassage(passage, cached=row is not None, flaw=flaw, store_error=error)
            for passage, row, flaw in zip(vectors, usable, flaws, strict=True)
        ]

    def _encode(self, texts: list[str]) -> list[ChunkVectors]:
        """Encodes a few passages at a time, because requests that encode take turns.

        Threads that encode at the same time would take each other's processors away.
        """
        encoded: list[ChunkVectors] = []
        for start in range(0, len(texts), _AT_ONCE):
            with self._encoding:
                encoded += self._model.encode_passages(texts[start : start + _AT_ONCE])
        return encoded

    def _flaw(self, row: ChunkVectors) -> str | None:
        """Why a store's row does not belong to this model; None if it does."""
        model = self._model
        if row.fingerprint != model.fingerprint:
            return f"they carry fingerprint {row.fingerprint}, the model has {model.fingerprint}"
        if row.width != model.encoder.width or row.chunk_size != model.config.chunk_size:
            return (
                f"they have width {row.width} and chunks of {row.chunk_size} tokens, the model "
                f"width {model.encoder.width} and chunks of {model.config.chunk_size}"
            )
        if not np.isfinite(row.vectors).all():
            return "they hold NaN or infinite values"
        return None


def _described(action: str, error: Exception) -> str:
    logger.warning("chunk vectors could not be %s: %s", action, error)
    return f"chunk vectors could not be {action}: {error}"
