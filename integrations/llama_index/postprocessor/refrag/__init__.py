"""REFRAG for LlamaIndex: a postprocessor after which passages are compressed in any prompt."""

from __future__ import annotations

from llama_index.postprocessor.refrag.base import RefragNodePostprocessor
from llama_index.postprocessor.refrag.nodes import KEY_METADATA

__all__ = ["KEY_METADATA", "RefragNodePostprocessor"]
