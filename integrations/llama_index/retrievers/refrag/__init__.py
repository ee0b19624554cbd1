"""REFRAG for LlamaIndex: retrievers whose passages the LLM recognises in the prompt."""

from __future__ import annotations

from llama_index.llms.refrag.nodes import RefragNode
from llama_index.retrievers.refrag.base import RefragRetriever
from llama_index.retrievers.refrag.collections import RefragCollections
from llama_index.retrievers.refrag.records import RecordRetriever

__all__ = ["RecordRetriever", "RefragCollections", "RefragNode", "RefragRetriever"]
