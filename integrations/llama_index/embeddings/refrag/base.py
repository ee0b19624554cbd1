"""Search vectors from the encoder that comes with a checkpoint."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field

from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.weights.lookup import DEFAULT_MODEL, checkpoint_folder

__all__ = ["RefragEmbedding"]


class RefragEmbedding(BaseEmbedding):
    """Embeds texts for search with the base encoder of a checkpoint, which is already on disk.

    Any other embedding model works too: search vectors and chunk vectors are independent of each
    other.

    Attributes:
        model_name: Checkpoint (``model=``): a bundled name, a folder or a hub id.
        device: Where it runs; by default CUDA if available.

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """

    model_config = ConfigDict(populate_by_name=True)

    model_name: str = Field(default=DEFAULT_MODEL, alias="model")
    device: str | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        checkpoint_folder(self.model_name)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "RefragEmbedding"

    def get_query_token_embeddings(self, query: str) -> list[Embedding]:
        """Embeds every token of a query, for late interaction; each vector has length 1."""
        rows: list[Embedding] = self._loaded().search_token_vectors([query])[1][0].tolist()
        return rows

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        rows: list[Embedding] = self._loaded().search_vectors(texts).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        row: Embedding = self._loaded().search_vector(query).tolist()
        return row

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _loaded(self) -> RefragModel:
        return load_checkpoint(self.model_name, self.device).model
