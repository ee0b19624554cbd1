"""REFRAG for LlamaIndex: one prompt with all passages, and a report with the answer."""

from __future__ import annotations

from llama_index.response_synthesizers.refrag.base import RefragSynthesizer
from llama_index.response_synthesizers.refrag.query_engine import RefragQueryEngine

__all__ = ["RefragQueryEngine", "RefragSynthesizer"]
