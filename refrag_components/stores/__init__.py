"""Stores: where the chunk vectors of passages are kept, by key."""

from __future__ import annotations

from refrag_components.stores.base import ChunkStore
from refrag_components.stores.memory import MemoryStore
from refrag_components.stores.sqlite import SQLiteStore

__all__ = ["ChunkStore", "MemoryStore", "SQLiteStore"]
