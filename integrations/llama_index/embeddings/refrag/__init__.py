"""REFRAG for LlamaIndex: search vectors, and chunk vectors made at ingestion."""

from __future__ import annotations

from llama_index.embeddings.refrag.base import RefragEmbedding
from llama_index.embeddings.refrag.transforms import ChunkVectorTransform

__all__ = ["ChunkVectorTransform", "RefragEmbedding"]
