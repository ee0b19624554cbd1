"""Stores: where the chunk vectors of passages are kept, by key."""

from __future__ import annotations

from refrag_components.stores.common.base import BaseChunkStore, ChunkStore
from refrag_components.stores.common.forgetting import forget_everything, forget_texts
from refrag_components.stores.common.opening import open_store
from refrag_components.stores.memory import MemoryStore
from refrag_components.stores.sqlite import SQLiteStore

__all__ = [
    "BaseChunkStore",
    "ChunkStore",
    "MemoryStore",
    "SQLiteStore",
    "forget_everything",
    "forget_texts",
    "open_store",
]
