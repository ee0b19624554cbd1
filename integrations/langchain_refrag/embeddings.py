"""Search vectors from the encoder that comes with a checkpoint."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field

from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.weights.lookup import checkpoint_folder

__all__ = ["RefragEmbeddings"]


class RefragEmbeddings(BaseModel, Embeddings):
    """Embeds texts for search with the base encoder of a checkpoint, which is already on disk.

    It is the encoder that ``RefragIndex`` searches with. Any other embedding model works too:
    search vectors and chunk vectors are independent of each other.

    Example:
        ```python
        embeddings = RefragEmbeddings(model="refrag-smollm2-135m")
        vector_store = InMemoryVectorStore.from_texts(texts, embeddings)
        ```

    Attributes:
        model_name: Checkpoint (``model=``): a bundled name, a folder or a hub id.
        device: Where it runs; by default CUDA if available.

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())

    model_name: str = Field(alias="model")
    device: str | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        checkpoint_folder(self.model_name)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embeds passages; each vector has length 1."""
        rows: list[list[float]] = self._loaded().search_vectors(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Embeds a question."""
        row: list[float] = self._loaded().search_vector(text).tolist()
        return row

    def embed_query_tokens(self, text: str) -> list[list[float]]:
        """Embeds every token of a question, for late interaction; each vector has length 1."""
        rows: list[list[float]] = self._loaded().search_token_vectors([text])[1][0].tolist()
        return rows

    def _loaded(self) -> RefragModel:
        return load_checkpoint(self.model_name, self.device).model
