"""Several collections behind one retriever, with passages that differ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.llms.refrag.nodes import passage_of
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.index.diversity import merge_diverse
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragCollections"]


class RefragCollections(BaseRetriever):
    """Retrieves from one collection or several, without two passages that say the same.

    Nodes of all retrievers are merged: each has its share of ``similarity_top_k``, a text that
    several have comes once, and a retriever that finds too little leaves its places to the others.
    With a diversity each next node is the one that is most similar to the query and least to those
    before it (maximal marginal relevance), over the vectors of the checkpoint's own search encoder,
    so that collections of different databases compare. Nodes keep the scores that their retrievers
    gave them.

    Each retriever returns as many nodes as it was made to: let it find as many as are to be
    returned, or four times as many where a diversity is to choose among them.

    Example:
        >>> from llama_index.core import SummaryIndex
        >>> from llama_index.core.schema import TextNode
        >>> notes = SummaryIndex([TextNode(text=t) for t in ("Dug in 1907.", "Rain fell.")])
        >>> letters = SummaryIndex([TextNode(text=t) for t in ("Dug in 1907.", "Dear John,")])
        >>> both = RefragCollections([notes.as_retriever(), letters.as_retriever()])
        >>> sorted(node.text for node in both.retrieve("When was it dug?"))
        ['Dear John,', 'Dug in 1907.', 'Rain fell.']

    Args:
        retrievers: The retrievers; at least one.
        shares: Share of each, above 0; all alike if None.
        similarity_top_k: Most nodes to return, at least 1.
        diversity: From 0, the order of the retrievers, to 1, difference alone.
        model: Checkpoint whose search encoder compares passages; not loaded without a diversity.
        device: Where it runs.
        callback_manager: As for every retriever.

    Raises:
        ValueError: If there is no retriever, or ``similarity_top_k`` or the diversity is outside
            its range; at the first search, if there is not one share above 0 for each retriever.
    """

    def __init__(
        self,
        retrievers: Sequence[BaseRetriever],
        *,
        shares: Sequence[float] | None = None,
        similarity_top_k: int = 10,
        diversity: float = 0.0,
        model: str = DEFAULT_MODEL,
        device: str | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        if not retrievers:
            raise ValueError("give at least one retriever")
        if similarity_top_k < 1:
            raise ValueError(f"similarity_top_k must be at least 1, got {similarity_top_k!r}")
        if not 0 <= diversity <= 1:
            raise ValueError(f"diversity must be from 0 to 1, got {diversity!r}")
        self._retrievers = list(retrievers)
        self._shares = shares
        self._similarity_top_k = similarity_top_k
        self._diversity = diversity
        self._model = model
        self._device = device

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = [retriever.retrieve(query_bundle) for retriever in self._retrievers]
        return self._merged(query_bundle.query_str, found)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        searches = [retriever.aretrieve(query_bundle) for retriever in self._retrievers]
        found = await asyncio.gather(*searches)
        return await asyncio.to_thread(self._merged, query_bundle.query_str, found)

    def _merged(self, query: str, found: Sequence[Sequence[NodeWithScore]]) -> list[NodeWithScore]:
        merged = merge_diverse(
            query,
            [[passage_of(each.node) for each in own] for own in found],
            self._similarity_top_k,
            shares=self._shares,
            diversity=self._diversity,
            search_vectors=self._search_vectors,
        )
        return [found[i][j] for i, j in merged]

    def _search_vectors(self, texts: Sequence[str]) -> np.ndarray:
        return load_checkpoint(self._model, self._device).model.search_vectors(texts)
