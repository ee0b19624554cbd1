"""Several collections behind one retriever, with passages that differ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, run_in_executor
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from langchain_refrag.retrievers import k_argument
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.index.diversity import merge_diverse
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragCollections"]


class RefragCollections(BaseRetriever):
    """Retrieves from one collection or several, without two passages that say the same.

    Documents of all retrievers are merged: each has its share of k, a text that several have comes
    once, and a retriever that finds too little leaves its places to the others. With a diversity
    each next document is the one that is most similar to the question and least to those before it
    (maximal marginal relevance), over the vectors of the checkpoint's own search encoder, so that
    collections of different databases compare. Wrap it in a ``RefragRetriever`` as any other.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> embeddings = DeterministicFakeEmbedding(size=8)  # yours
        >>> notes = InMemoryVectorStore.from_texts(["Dug in 1907.", "Rain fell."], embeddings)
        >>> letters = InMemoryVectorStore.from_texts(["Dug in 1907.", "Dear John,"], embeddings)
        >>> both = RefragCollections(retrievers=[notes.as_retriever(), letters.as_retriever()], k=3)
        >>> sorted(document.page_content for document in both.invoke("Dug in 1907."))
        ['Dear John,', 'Dug in 1907.', 'Rain fell.']

    Attributes:
        retrievers: The retrievers, or other Runnables that return documents; at least one.
        shares: Share of each, above 0; all alike if None.
        k: Most documents to return.
        diversity: From 0, the order of the retrievers, to 1, difference alone.
        fetch: Documents that each retriever is asked for, if it takes such a number; 4 k with a
            diversity and k without one if None.
        model_name: Checkpoint (``model=``) whose search encoder compares passages; not loaded
            without a diversity.
        device: Where it runs.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    retrievers: list[Runnable[Any, list[Document]]] = Field(min_length=1)
    shares: list[float] | None = None
    k: PositiveInt = 10
    diversity: float = Field(default=0.0, ge=0, le=1)
    fetch: NonNegativeInt | None = None
    model_name: str = Field(default=DEFAULT_MODEL, alias="model")
    device: str | None = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        count = self.k if k is None else k
        config = {"callbacks": run_manager.get_child()}
        found = [
            retriever.invoke(
                query,
                config,  # type: ignore[arg-type]
                **kwargs,
                **k_argument(retriever, self._fetched(count), "_get_relevant_documents"),
            )
            for retriever in self.retrievers
        ]
        return self._merged(query, found, count)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        count = self.k if k is None else k
        config = {"callbacks": run_manager.get_child()}
        searches = [
            retriever.ainvoke(
                query,
                config,  # type: ignore[arg-type]
                **kwargs,
                **k_argument(retriever, self._fetched(count), "_aget_relevant_documents"),
            )
            for retriever in self.retrievers
        ]
        found = await asyncio.gather(*searches)
        return await run_in_executor(None, self._merged, query, found, count)

    def _fetched(self, count: int) -> int:
        if self.fetch is not None:
            return max(self.fetch, count)
        return 4 * count if self.diversity else count

    def _merged(
        self, query: str, found: Sequence[Sequence[Document]], count: int
    ) -> list[Document]:
        merged = merge_diverse(
            query,
            [[document.page_content for document in documents] for documents in found],
            count,
            shares=self.shares,
            diversity=self.diversity,
            search_vectors=self._search_vectors,
        )
        return [found[i][j] for i, j in merged]

    def _search_vectors(self, texts: Sequence[str]) -> np.ndarray:
        return load_checkpoint(self.model_name, self.device).model.search_vectors(texts)
