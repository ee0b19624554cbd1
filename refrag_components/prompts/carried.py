"""Chunk vectors that documents bring along, from the search that found them to the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import ChunkVectors, passage_key

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["KEY_METADATA", "carried_stores"]

#: Name of the metadata that hold the key of a document's chunk vectors; these never stand there.
KEY_METADATA = "refrag_key"


def carried_stores(
    documents: Iterable[tuple[str, object, ChunkVectors | None]],
) -> dict[str, ChunkStore]:
    """The chunk vectors that documents carry, whatever model made them.

    Args:
        documents: Text, key and chunk vectors of each; None for those that carry none.

    Returns:
        For the key of each document that carries the chunk vectors of its text, a store of these.
        A model finds its own under ``passage_key`` of the text and its fingerprint, and nothing of
        what another one has made.
    """
    carried: dict[str, ChunkStore] = {}
    for text, key, vectors in documents:
        passage = text.strip()
        # Somebody may have copied the document with another text; its vectors are worthless then.
        if vectors is not None and key == (own := passage_key(passage, vectors.fingerprint)):
            store = MemoryStore(max_bytes=None)
            store.mset([(own, vectors)])
            carried[own] = store
    return carried
