"""A retriever whose passages the LLM recognises in the prompt."""

from __future__ import annotations

import asyncio

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.postprocessor.refrag.nodes import prepared_nodes
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragRetriever"]


class RefragRetriever(BaseRetriever):
    """Wraps any retriever so that ``RefragLLM`` compresses what it returns.

    The same as a ``RefragNodePostprocessor`` for code that calls a retriever and builds the prompt
    itself. If a postprocessor that changes texts follows the retriever, use that class instead.

    Args:
        retriever: The retriever that searches.
        store: Where chunk vectors of its passages are kept; the answering LLM's store if None.
        model: Checkpoint that makes missing chunk vectors; None to leave that to the LLM.
        device: Where that checkpoint runs.
        callback_manager: As for every retriever.

    Example:
        ```python
        retriever = RefragRetriever(index.as_retriever(similarity_top_k=4))
        engine = RetrieverQueryEngine.from_args(retriever, llm=RefragLLM())
        ```
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        *,
        store: ChunkStore | None = None,
        model: str | None = None,
        device: str | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self._retriever = retriever
        self._store = store
        self._model = model
        self._device = device

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._prepared(query_bundle, self._retriever.retrieve(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = await self._retriever.aretrieve(query_bundle)
        return await asyncio.to_thread(self._prepared, query_bundle, nodes)

    def _prepared(
        self, query_bundle: QueryBundle, nodes: list[NodeWithScore]
    ) -> list[NodeWithScore]:
        return prepared_nodes(
            query_bundle.query_str,
            nodes,
            store=self._store,
            model=self._model,
            device=self._device,
        )
