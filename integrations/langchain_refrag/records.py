"""A retriever that finds passages together with their chunk vectors."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PositiveInt, SkipValidation, model_validator

from langchain_refrag.documents import KEY_METADATA, RefragDocument
from refrag_components.records import RecordCollection
from refrag_components.records.base import CANDIDATES

__all__ = ["RecordRetriever"]


@runtime_checkable
class _TokenEmbeddings(Protocol):
    def embed_query_tokens(self, text: str) -> list[list[float]]: ...


class RecordRetriever(BaseRetriever):
    """Searches a collection of records, where one request returns passages and chunk vectors.

    Wrap it in ``RefragRetriever``, which hands the chunk vectors on to the model.

    Example:
        ```python
        records = QdrantRecords(client, tenant="a")
        search = RecordRetriever(records=records, embeddings=RefragEmbeddings(model="..."))
        retriever = RefragRetriever(retriever=search, k=5)
        ```

    Attributes:
        records: The collection; what it finds belongs to its tenant.
        embeddings: What the passage vectors were made with.
        k: Passages to return, at most.
        late_interaction: Whether candidates are ordered by the vectors of the question's tokens,
            which ``embeddings`` must then make (``embed_query_tokens``, as ``RefragEmbeddings``
            does).
        candidates: Passages that late interaction compares.

    Raises:
        ValueError: If these embeddings cannot embed tokens, but should.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    records: SkipValidation[RecordCollection] = Field(exclude=True, repr=False)
    embeddings: SkipValidation[Embeddings] = Field(exclude=True, repr=False)
    k: PositiveInt = 4
    late_interaction: bool = False
    candidates: PositiveInt = CANDIDATES

    @model_validator(mode="after")
    def _check_embeddings(self) -> RecordRetriever:
        if self.late_interaction and not isinstance(self.embeddings, _TokenEmbeddings):
            raise ValueError(
                "late_interaction needs embeddings that embed tokens: RefragEmbeddings"
            )
        return self

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        tokens = None
        if self.late_interaction and isinstance(self.embeddings, _TokenEmbeddings):
            tokens = np.array(self.embeddings.embed_query_tokens(query), dtype=np.float32)
        vector = np.array(self.embeddings.embed_query(query), dtype=np.float32)
        found = self.records.search(
            vector, tokens, k=self.k if k is None else k, candidates=self.candidates
        )
        return [
            RefragDocument(
                id=each.key,
                page_content=each.text,
                metadata={**each.metadata, KEY_METADATA: each.key},
                chunk_vectors=each.chunk_vectors,
            )
            for each in found
        ]
