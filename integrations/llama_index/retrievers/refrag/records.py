"""A retriever that finds passages together with their chunk vectors."""

from __future__ import annotations

import asyncio
from typing import Protocol, runtime_checkable

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.llms.refrag.nodes import RefragNode, marked
from refrag_components.records import FoundRecord, RecordCollection
from refrag_components.records.base import CANDIDATES

__all__ = ["RecordRetriever"]


@runtime_checkable
class _TokenEmbedding(Protocol):
    def get_query_token_embeddings(self, query: str) -> list[Embedding]: ...


class RecordRetriever(BaseRetriever):
    """Searches a collection of records, where one request returns passages and chunk vectors.

    The nodes carry their chunk vectors to ``RefragLLM``, here or on a server, through a
    ``RefragNodePostprocessor``, ``RefragSynthesizer`` or ``RefragRetriever``: no store is asked.

    Args:
        records: The collection; what it finds belongs to its tenant.
        embed_model: What the passage vectors were made with.
        similarity_top_k: Passages to return, at most; at least 1.
        late_interaction: Whether candidates are ordered by the vectors of the query's tokens, which
            ``embed_model`` must then make (``get_query_token_embeddings``, as ``RefragEmbedding``
            does).
        candidates: Passages that late interaction compares, at least 1.
        callback_manager: As for every retriever.

    Raises:
        ValueError: If this embedding model cannot embed tokens, but should, or a number is
            below 1.

    Example:
        ```python
        records = QdrantRecords(client, tenant="a")
        retriever = RecordRetriever(records, RefragEmbedding(), similarity_top_k=5)
        engine = RefragQueryEngine.from_args(retriever)
        ```
    """

    def __init__(
        self,
        records: RecordCollection,
        embed_model: BaseEmbedding,
        *,
        similarity_top_k: int = 4,
        late_interaction: bool = False,
        candidates: int = CANDIDATES,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        if late_interaction and not isinstance(embed_model, _TokenEmbedding):
            raise ValueError("late_interaction needs embeddings that embed tokens: RefragEmbedding")
        for name, number in (("similarity_top_k", similarity_top_k), ("candidates", candidates)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number!r}")
        self._records = records
        self._embed_model = embed_model
        self._similarity_top_k = similarity_top_k
        self._late_interaction = late_interaction
        self._candidates = candidates

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if vector is None:
            vector = self._embed_model.get_agg_embedding_from_queries(query_bundle.embedding_strs)
        return self._found(query_bundle.query_str, vector)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if vector is None:
            asked = query_bundle.embedding_strs
            vector = await self._embed_model.aget_agg_embedding_from_queries(asked)
        return await asyncio.to_thread(self._found, query_bundle.query_str, vector)

    def _found(self, query: str, vector: Embedding) -> list[NodeWithScore]:
        tokens = None
        if self._late_interaction and isinstance(self._embed_model, _TokenEmbedding):
            tokens = np.array(self._embed_model.get_query_token_embeddings(query), dtype=np.float32)
        found = self._records.search(
            np.array(vector, dtype=np.float32),
            tokens,
            k=self._similarity_top_k,
            candidates=self._candidates,
        )
        return [NodeWithScore(node=_node(each), score=each.score) for each in found]


def _node(found: FoundRecord) -> RefragNode:
    node = RefragNode(
        id_=found.key,
        text=found.text,
        extra_info=found.metadata,  # its metadata
        chunk_vectors=found.chunk_vectors,
    )
    return marked(node, found.key)
