"""A retriever whose passages the model recognises in the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config, run_in_executor
from langchain_core.runnables.config import patch_config
from pydantic import ConfigDict, Field, PositiveInt, SkipValidation

from langchain_refrag.documents import KEY_METADATA, RefragDocument, carried_stores
from langchain_refrag.runs import note_documents
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.parts import PassagePart
from refrag_components.stores.common.base import ChunkStore
from refrag_components.vectors import passage_key

__all__ = ["RefragRetriever", "k_argument"]


def k_argument(retriever: object, k: int | None, search: str) -> dict[str, int]:
    """The keyword that makes a retriever return k documents, if it takes one.

    Args:
        retriever: A retriever or another Runnable.
        k: Number of documents; None for as many as it returns.
        search: Name of the method that searches.
    """
    if k is None or not isinstance(retriever, BaseRetriever):
        return {}
    parameters = inspect.signature(getattr(retriever, search)).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"k": k} if "k" in parameters or takes_any else {}


class RefragRetriever(BaseRetriever):
    """Wraps any retriever so that ``ChatRefrag`` compresses what it returns.

    The documents are returned unchanged, so prompts stay the same and any other model can still
    read them. ``ChatRefrag`` and ``RefragLLM`` find their texts again in the prompts of the same
    run: of the chain, graph or agent that was invoked.

    With a ``model`` the chunk vectors are made here, unless the store has them, and the documents
    are ``RefragDocument`` that carry them, with their key in the metadata. Without one, the model
    makes them when it first reads a passage. Documents that carry them already, as those of a
    ``RecordRetriever`` do, hand them on to the model, here or on a server: no store is asked.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> texts = ["The harbour of Eastport was dug in 1907.", "Rain fell for three days."]
        >>> embeddings = DeterministicFakeEmbedding(size=8)  # yours
        >>> found = InMemoryVectorStore.from_texts(texts, embeddings).as_retriever()
        >>> retriever = RefragRetriever(retriever=found, k=1)
        >>> [document.page_content for document in retriever.invoke(texts[0])]
        ['The harbour of Eastport was dug in 1907.']

    Attributes:
        retriever: The retriever that searches, or any Runnable that returns documents. It gets the
            configuration of the call and its keywords, such as filters.
        store: Where chunk vectors of its passages are kept; the answering model's store if None.
        model_name: Checkpoint (``model=``) that makes missing chunk vectors; None to leave that to
            the model that answers.
        device: Where that checkpoint runs.
        k: Maximum number of documents to return; all that ``retriever`` returns if None. It is
            passed on to a retriever that accepts it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    retriever: Runnable[Any, list[Document]]
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    model_name: str | None = Field(default=None, alias="model")
    device: str | None = None
    k: PositiveInt | None = None

    # BaseRetriever hands its keywords on to the methods below, but not its configuration.

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieves, see ``BaseRetriever.invoke``; ``retriever`` gets config and keywords."""
        return super().invoke(input, config, **kwargs, given=ensure_config(config))

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """As ``invoke``."""
        return await super().ainvoke(input, config, **kwargs, given=ensure_config(config))

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        given: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        k = self.k if k is None else k
        arguments = kwargs | k_argument(self.retriever, k, "_get_relevant_documents")
        inner = patch_config(given, callbacks=run_manager.get_child())
        found = self.retriever.invoke(query, inner, **arguments)
        return self._noted(query, found[:k], run_manager)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        given: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        k = self.k if k is None else k
        arguments = kwargs | k_argument(self.retriever, k, "_aget_relevant_documents")
        inner = patch_config(given, callbacks=run_manager.get_child())
        found = await self.retriever.ainvoke(query, inner, **arguments)
        return await run_in_executor(None, self._noted, query, found[:k], run_manager)

    def _noted(
        self, query: str, documents: Sequence[Document], run_manager: BaseRunManager
    ) -> list[Document]:
        """The documents, with chunk vectors if there is a model to make them."""
        if self.model_name is None:
            note_documents(query, documents, self.store, run_manager)
            return list(documents)
        generator = load_checkpoint(self.model_name, self.device).generator
        store = generator.store if self.store is None else self.store
        note_documents(query, documents, store, run_manager)
        carried = carried_stores(documents)
        texts = [document.page_content.strip() for document in documents]
        keys = [passage_key(text, generator.model.fingerprint) for text in texts]
        passages = [
            PassagePart(text, carried.get(key)) for text, key in zip(texts, keys, strict=True)
        ]
        loaded = PassageLoader(generator.model, store, waits=True).load(passages)
        return [
            RefragDocument(
                id=document.id,
                page_content=document.page_content,
                metadata={**document.metadata, KEY_METADATA: key},
                chunk_vectors=known.vectors,
            )
            for document, key, known in zip(documents, keys, loaded, strict=True)
        ]
