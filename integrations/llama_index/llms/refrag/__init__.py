"""REFRAG for LlamaIndex: an LLM that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

from llama_index.llms.refrag.base import RefragLLM
from llama_index.llms.refrag.examples import RefragExamples
from llama_index.llms.refrag.reports import collect_reports

__all__ = ["RefragExamples", "RefragLLM", "collect_reports"]
