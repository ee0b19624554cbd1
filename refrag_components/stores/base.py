"""What every store can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from refrag_components.vectors import ChunkVectors

__all__ = ["ChunkStore"]


class ChunkStore(Protocol):
    """Keeps the chunk vectors of passages; keys come from ``passage_key``.

    A key holds the model's fingerprint, so several models may share a store.
    """

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry a key, in order; None where there is no (readable) value."""

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values, all or none of them; a key's earlier value is replaced."""

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored."""

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``."""
