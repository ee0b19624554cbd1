"""Passage vectors in FAISS: all compared while they are few, in inverted lists above."""

from __future__ import annotations

import math
import os
from typing import Any

import faiss
import numpy as np

__all__ = ["VectorIndex"]

# FAISS's threads do not survive a fork; a child that waited for them would hang.
if hasattr(os, "register_at_fork"):  # not on Windows, which never forks
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))

_EXACT = 100_000  # vectors up to which all are compared
_LISTS_PER_ROOT = 4  # lists are this times the root of the number of vectors, as FAISS advises
_PART_PROBED = 1 / 16  # of the lists
_TRAINED_WITH = 64  # vectors per list
_GROWTH = 4  # lists are made again when there are this many times the vectors


class VectorIndex:
    """Vectors of length 1 by number, in memory; not for several threads at once.

    Args:
        width: Values per vector.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(width))
        self._rebuilt_at = _EXACT

    @property
    def in_lists(self) -> bool:
        """Whether it looks into the nearest lists alone and does not compare all vectors."""
        return not isinstance(self._index, faiss.IndexIDMap2)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors.

        Args:
            ids: Their numbers, shape (n,), int64, each new.
            vectors: Shape (n, width), float32.
        """
        self._index.add_with_ids(vectors, ids)
        if self._index.ntotal > self._rebuilt_at:
            self._make_lists()

    def search(self, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """The numbers of at most k vectors, and their cosines, best first."""
        scores, ids = self._index.search(vector[None], k)
        return [
            (int(i), float(score)) for i, score in zip(ids[0], scores[0], strict=True) if i != -1
        ]

    def _make_lists(self) -> None:
        ids, vectors = self._all()
        n_lists = int(_LISTS_PER_ROOT * math.sqrt(len(ids)))
        index: Any = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(self.width), self.width, n_lists, faiss.METRIC_INNER_PRODUCT
        )
        step = max(1, len(ids) // (_TRAINED_WITH * n_lists))
        index.train(np.ascontiguousarray(vectors[::step]))
        index.nprobe = max(1, math.ceil(n_lists * _PART_PROBED))
        index.set_direct_map_type(index.direct_map.Hashtable)
        index.add_with_ids(vectors, ids)
        self._index = index
        self._rebuilt_at = _GROWTH * len(ids)

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """All numbers and vectors."""
        if self.in_lists:
            lists = self._index.invlists
            ids = np.concatenate(
                [
                    faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
                    for i in range(lists.nlist)
                    if lists.list_size(i)
                ]
            )
        else:
            ids = faiss.vector_to_array(self._index.id_map)
        return ids, self._index.reconstruct_batch(ids)
