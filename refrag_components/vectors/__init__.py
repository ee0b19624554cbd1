"""Chunk vectors: what is computed once, stored and looked up."""

from __future__ import annotations

from refrag_components.vectors.chunk_vectors import (
    ChunkVectors,
    padded_token_ids,
    passage_key,
    unit_rows,
)
from refrag_components.vectors.codecs import CODECS, Codec

__all__ = ["CODECS", "ChunkVectors", "Codec", "padded_token_ids", "passage_key", "unit_rows"]
