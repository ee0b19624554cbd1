"""REFRAG for LlamaIndex: a retriever whose passages the LLM recognises in the prompt."""

from __future__ import annotations

from llama_index.retrievers.refrag.base import RefragRetriever

__all__ = ["RefragRetriever"]
