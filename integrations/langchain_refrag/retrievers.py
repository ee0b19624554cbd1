"""A retriever whose passages the model recognises in the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, run_in_executor
from pydantic import ConfigDict, Field, PositiveInt, SkipValidation

from langchain_refrag.documents import KEY_METADATA, RefragDocument
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.parts import PassagePart
from refrag_components.prompts.registry import default_registry
from refrag_components.stores.base import ChunkStore
from refrag_components.vectors import passage_key

__all__ = ["RefragRetriever"]


class RefragRetriever(BaseRetriever):
    """Wraps any retriever so that ``ChatRefrag`` compresses what it returns.

    The documents are returned unchanged, so prompts stay the same and any other model can still
    read them. Their texts are registered in this process; ``ChatRefrag`` and ``RefragLLM`` find
    them again in the prompt.

    With a ``model`` the chunk vectors are made here, unless the store has them, and the documents
    are ``RefragDocument`` that carry them, with their key in the metadata. Without one, the model
    makes them when it first reads a passage.

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
        retriever: The retriever that searches.
        store: Where chunk vectors of its passages are kept; the answering model's store if None.
        model_name: Checkpoint (``model=``) that makes missing chunk vectors; None to leave that to
            the model that answers.
        device: Where that checkpoint runs.
        k: Maximum number of documents to return; all that ``retriever`` returns if None. It is
            passed on to a retriever that accepts it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    retriever: BaseRetriever
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    model_name: str | None = Field(default=None, alias="model")
    device: str | None = None
    k: PositiveInt | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        k = self.k if k is None else k
        argument = _k_argument(k, self.retriever._get_relevant_documents)
        config: RunnableConfig = {"callbacks": run_manager.get_child()}
        documents = self.retriever.invoke(query, config, **argument)
        return self._registered(documents[:k])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        k = self.k if k is None else k
        argument = _k_argument(k, self.retriever._aget_relevant_documents)
        config: RunnableConfig = {"callbacks": run_manager.get_child()}
        documents = await self.retriever.ainvoke(query, config, **argument)
        return await run_in_executor(None, self._registered, documents[:k])

    def _registered(self, documents: Sequence[Document]) -> list[Document]:
        if self.model_name is None:
            self._register(documents, self.store)
            return list(documents)
        generator = load_checkpoint(self.model_name, self.device).generator
        store = generator.store if self.store is None else self.store
        self._register(documents, store)
        passages = [PassagePart(document.page_content.strip()) for document in documents]
        loaded = PassageLoader(generator.model, store, waits=True).load(passages)
        return [
            RefragDocument(
                id=document.id,
                page_content=document.page_content,
                metadata={
                    **document.metadata,
                    KEY_METADATA: passage_key(passage.text, generator.model.fingerprint),
                },
                vectors=known.vectors,
            )
            for document, passage, known in zip(documents, passages, loaded, strict=True)
        ]

    @staticmethod
    def _register(documents: Sequence[Document], store: ChunkStore | None) -> None:
        for document in documents:
            default_registry().register(document.page_content, store)


def _k_argument(k: int | None, search: Callable[..., Any]) -> dict[str, int]:
    """The keyword that makes a retriever return k documents, if it takes one."""
    parameters = inspect.signature(search).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"k": k} if k is not None and ("k" in parameters or takes_any) else {}
