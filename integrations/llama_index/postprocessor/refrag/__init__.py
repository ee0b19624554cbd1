"""REFRAG for LlamaIndex: postprocessors for ``RefragLLM`` and, of excerpts, for any LLM."""

from __future__ import annotations

from llama_index.postprocessor.refrag.base import RefragNodePostprocessor
from llama_index.postprocessor.refrag.excerpts import RefragExcerptPostprocessor
from llama_index.postprocessor.refrag.nodes import KEY_METADATA

__all__ = ["KEY_METADATA", "RefragExcerptPostprocessor", "RefragNodePostprocessor"]
