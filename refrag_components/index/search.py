"""Exact search over passage vectors with FAISS, following the catalog."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from refrag_components.atomic import atomic_file
from refrag_components.checking import parse_json
from refrag_components.exceptions import InvalidVectorsError
from refrag_components.forking import OwnLock
from refrag_components.index.catalog import Catalog, Position
from refrag_components.stores.common.database import Database
from refrag_components.vectors import unit_rows

__all__ = ["PassageSearch", "search_rows"]

logger = logging.getLogger(__name__)

# FAISS's threads do not survive a fork; a child that waited for them would hang.
if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))

_SAVED = "search file"
_EARLIER = "index.faiss"  # what earlier releases wrote; it may hold what was removed since


class PassageSearch:
    """Finds the passages whose vectors have the largest inner product with a question's vector.

    The catalog has every vector, so the file is only a shortcut: what it lacks, or everything if
    there is no file, is added from the catalog. Safe for many threads.

    Args:
        path: The file; need not exist. It holds two NumPy arrays: FAISS's own format may come from
            anybody, and its reader is not made for that.
        database: Where the catalog's tables are.
        catalog: The passages to search.
    """

    def __init__(self, path: Path, database: Database, catalog: Catalog) -> None:
        self.path = path
        self._database = database
        self._catalog = catalog
        self._lock = OwnLock(threading.RLock)
        self._index: Any = None  # a faiss.IndexIDMap2 once there are passages
        self._position = Position(0, 0)
        self._saved: Position | None = None
        self._load()

    def search(self, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """Finds passages.

        Args:
            vector: Search vector of a question, shape (d,).
            k: Maximum number of passages, at least 1.

        Returns:
            At most k pairs of passage id and score, best first.
        """
        self.sync()
        with self._lock:
            if self._index is None:
                return []
            count = min(k, self._index.ntotal)
            scores, ids = self._index.search(vector.astype(np.float32)[None, :], count)
        found = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        best_first = sorted(found, key=lambda pair: (-pair[1], pair[0]))
        return [(number, score) for number, score in best_first if number != -1]

    def vectors(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Search vectors of passages by their ids; those removed since they were found have none.

        Returns:
            Arrays of shape (d,), float32.
        """
        found: dict[int, np.ndarray] = {}
        with self._lock:
            for number in numbers if self._index is not None else ():
                try:
                    found[number] = self._index.reconstruct(number)
                except RuntimeError:  # what FAISS raises for an id that it lacks
                    continue
        return found

    def sync(self) -> None:
        """Applies what has changed in the catalog, in this process or in another."""
        # In a forked child: another thread of the parent may have been adding to it.
        self._lock.begin_again(self._drop)
        with self._lock:
            target = self._catalog.position()
            if target.removals != self._position.removals:
                self._index = None
                self._position = Position(0, target.removals)
            for ids, vectors in self._catalog.vectors(self._position.last_id, target.last_id):
                if self._index is None:
                    self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
                self._index.add_with_ids(vectors, ids)
            self._position = target

    def _drop(self) -> None:
        self._index, self._position = None, Position(0, 0)

    def save(self) -> None:
        """Writes the file, unless it is up to date or may not be written."""
        if self._database.read_only:
            return
        # The transaction keeps other processes from writing the file at the same time.
        with self._lock, self._database.write():
            if self._saved == self._position:
                return
            try:
                self.path.with_name(_EARLIER).unlink(missing_ok=True)
                if self._index is None:
                    self.path.unlink(missing_ok=True)
                    self._saved = self._position
                    return
                with atomic_file(self.path) as scratch, scratch.open("wb+") as file:
                    for array in _arrays(self._index):
                        np.save(file, array, allow_pickle=False)
                    digest = _digest(file, self._position)
            except OSError as error:
                logger.warning("%s cannot be written; opening will be slow: %s", self.path, error)
                return
            self._catalog.set_fact(_SAVED, json.dumps([digest, *self._position]))
            self._saved = self._position

    def _load(self) -> None:
        """Reads the file if it is the one that was saved last."""
        saved = self._catalog.fact(_SAVED)
        if saved is None:  # a new index
            return
        try:
            digest, *position = parse_json(saved)
            with self.path.open("rb") as file:
                if _digest(file, position) != digest:
                    raise ValueError("it is not the file that was saved last")
                file.seek(0)
                self._index = _index_of(*(np.load(file, allow_pickle=False) for _ in range(2)))
        except (MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
            logger.info("%s is built from the passages: %s", self.path, error)
        else:
            self._saved = self._position = Position(*position)


def _arrays(index: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids, shape (n,), int64, and vectors, shape (n, d), float32, of an index."""
    n, d = index.ntotal, index.d
    flat: Any = faiss.downcast_index(index.index)
    vectors = faiss.rev_swig_ptr(flat.get_xb(), n * d)
    return faiss.vector_to_array(index.id_map), vectors.reshape(n, d)


def _index_of(ids: np.ndarray, vectors: np.ndarray) -> Any:
    """The index of ids and vectors that were read from a file.

    Raises:
        ValueError: If they are not what ``_arrays`` returns.
    """
    types = (ids.dtype, vectors.dtype) == (np.int64, np.float32)
    if not types or vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise ValueError("it does not hold ids and vectors")
    if not np.isfinite(vectors).all():
        raise ValueError("it holds values that are not numbers")
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, ids)
    return index


def _digest(file: BufferedRandom | BufferedReader, position: Sequence[int]) -> str:
    """Digest of a whole file and of the position that it represents."""
    file.seek(0)
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(json.dumps(position).encode())
    return digest.hexdigest()


def search_rows(vectors: np.ndarray) -> np.ndarray:
    """Search vectors scaled to length 1; raises if they are not vectors."""
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        msg = f"search vectors must be finite, of shape (n, d); got shape {vectors.shape}"
        raise InvalidVectorsError(msg)
    return unit_rows(vectors)
