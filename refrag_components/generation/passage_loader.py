"""Passages to chunk vectors: from a store where they are known, else from the encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet, WeakValueDictionary

from refrag_components.forking import OwnLock
from refrag_components.generation.store_guard import StoreGuard, guard_of, time_limit
from refrag_components.prompts.parts import PassagePart
from refrag_components.vectors import ChunkVectors, passage_key

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.stores.common.base import ChunkStore

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


@dataclass(frozen=True, eq=False)
class _Found:
    """What a store has of some passages.

    Attributes:
        store: The store.
        guard: Its guard.
        texts: The passages, each once.
        keys: Their keys.
        rows: Their chunk vectors as far as they are usable.
        flaws: Why others are not.
        error: What went wrong with the store itself.
    """

    store: ChunkStore
    guard: StoreGuard
    texts: list[str]
    keys: list[str]
    rows: list[ChunkVectors | None]
    flaws: list[str | None]
    error: str | None


class PassageLoader:
    """Loads the chunk vectors of passages and stores those it had to compute.

    A store only saves time: what it lacks, garbles or fails to deliver in time is encoded, and
    written back behind the answer's back.

    Args:
        model: Encodes what no store knows.
        store: Store of the passages that do not name one themselves.
        waits: Whether ``load`` waits, as long as for reading, until what it encoded is stored. In
            the batch of an answer it must not: others would wait too.
    """

    def __init__(self, model: RefragModel, store: ChunkStore, *, waits: bool = False) -> None:
        self._model = model
        self._store = store
        self._waits = waits
        self._guards: WeakSet[StoreGuard] = WeakSet()
        self._encoding = OwnLock()
        # What was found sound under a key. A store in memory returns the same objects again, and
        # comparing the tokens of a long context with its text takes milliseconds.
        self._sound: WeakValueDictionary[str, ChunkVectors] = WeakValueDictionary()

    def load(
        self,
        parts: Sequence[PassagePart],
        *,
        before_encoding: Callable[[Mapping[str, ChunkVectors]], None] | None = None,
    ) -> list[LoadedPassage]:
        """Loads passages, each distinct one once.

        Args:
            parts: Passages, of any number of requests.
            before_encoding: Called with the passages that the stores know, by their text, if some
                have to be encoded; whatever it raises is raised before that.

        Returns:
            One entry per part, in order.
        """
        stores = [self._store if part.store is None else part.store for part in parts]
        found = []
        for store in {id(store): store for store in stores}.values():
            texts = [p.text for p, other in zip(parts, stores, strict=True) if other is store]
            found.append(self._look_up(store, list(dict.fromkeys(texts))))
        if before_encoding is not None and any(None in each.rows for each in found):
            before_encoding(
                {
                    text: row
                    for each in found
                    for text, row in zip(each.texts, each.rows, strict=True)
                    if row is not None
                }
            )
        loaded = {
            (id(each.store), text): passage
            for each in found
            for text, passage in zip(each.texts, self._completed(each), strict=True)
        }
        return [loaded[id(store), part.text] for part, store in zip(parts, stores, strict=True)]

    def keep(self, parts: Sequence[PassagePart], loaded: Sequence[LoadedPassage]) -> None:
        """Has the loader's store keep what passages brought with them.

        Args:
            parts: Passages; those that name no other store are in the loader's already.
            loaded: As ``load`` returned them, in order.
        """
        guard = guard_of(self._store)
        self._guards.add(guard)
        brought = {
            passage_key(part.text, self._model.fingerprint): passage.vectors
            for part, passage in zip(parts, loaded, strict=True)
            if part.store is not None
        }
        guard.write(self._store, list(brought.items()))
        if self._waits and brought:
            guard.flush(time_limit(self._store))

    def flush(self, seconds: float | None = None) -> bool:
        """Waits until what was encoded is stored, or the store has failed.

        Args:
            seconds: For at most so long; None without limit.

        Returns:
            Whether nothing is left to be written.
        """
        return all([guard.flush(seconds) for guard in list(self._guards)])

    def _look_up(self, store: ChunkStore, texts: list[str]) -> _Found:
        keys = [passage_key(text, self._model.fingerprint) for text in texts]
        guard = guard_of(store)
        self._guards.add(guard)
        rows, error = guard.read(store, keys)
        flaws = self._flaws(texts, keys, rows)
        usable = [None if flaw else row for row, flaw in zip(rows, flaws, strict=True)]
        return _Found(store, guard, texts, keys, usable, flaws, error)

    def _completed(self, found: _Found) -> list[LoadedPassage]:
        """Encodes what the store does not have, and has it stored."""
        missing = [i for i, row in enumerate(found.rows) if row is None]
        fresh = iter(self._encode([found.texts[i] for i in missing]))
        vectors = [next(fresh) if row is None else row for row in found.rows]
        found.guard.write(found.store, [(found.keys[i], vectors[i]) for i in missing])
        if self._waits and missing:
            found.guard.flush(time_limit(found.store))
        return [
            LoadedPassage(passage, cached=row is not None, flaw=flaw, store_error=found.error)
            for passage, row, flaw in zip(vectors, found.rows, found.flaws, strict=True)
        ]

    def _flaws(
        self, texts: list[str], keys: list[str], rows: list[ChunkVectors | None]
    ) -> list[str | None]:
        """Why each of a store's rows cannot be used; None where it can, or where there is none."""
        flaws: list[str | None] = [None] * len(rows)
        unsure: list[tuple[int, ChunkVectors]] = []
        for i, row in enumerate(rows):
            if row is None or self._sound.get(keys[i]) is row:
                continue
            flaws[i] = self._flaw(row)
            if flaws[i] is None:
                unsure.append((i, row))
        differ = self._model.token_check.differ(
            [texts[i] for i, _ in unsure], [row.token_ids for _, row in unsure]
        )
        for (i, row), differs in zip(unsure, differ, strict=True):
            if differs:
                flaws[i] = "their token ids say something else than the passage"
                logger.warning("a store holds other token ids than the passage's own")
            else:
                self._sound[keys[i]] = row
        return flaws

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
        if row.width != model.vector_width or row.chunk_size != model.config.chunk_size:
            return (
                f"they have width {row.width} and chunks of {row.chunk_size} tokens, the model "
                f"width {model.vector_width} and chunks of {model.config.chunk_size}"
            )
        if not row.finite:
            return "they hold NaN or infinite values"
        return None
