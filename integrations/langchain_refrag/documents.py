"""Documents that may carry their chunk vectors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from langchain_core.documents import Document
from pydantic import ConfigDict, Field, InstanceOf, SkipValidation

from refrag_components.prompts import carried
from refrag_components.prompts.carried import KEY_METADATA
from refrag_components.prompts.conversation import read_documents
from refrag_components.prompts.resolver import Resolver, document_text
from refrag_components.stores.common.base import ChunkStore
from refrag_components.vectors import ChunkVectors

__all__ = ["KEY_METADATA", "RefragDocument", "carried_stores", "document_stores"]


class RefragDocument(Document):
    """A ``Document`` that may carry the chunk vectors of its text.

    The vectors are not part of prompts, traces, LangGraph's checkpoints or ``dumps``, and what is
    loaded from those is a plain ``Document``. The short key in ``metadata["refrag_key"]`` does
    travel; it names the vectors in a store.

    Attributes:
        chunk_vectors: Chunk vectors of ``page_content``, if they are known.
        store: Where they are kept otherwise; the answering model's store if None.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chunk_vectors: InstanceOf[ChunkVectors] | None = Field(default=None, exclude=True, repr=False)
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialises as ``Document``, so that other processes need not know this class."""
        return Document.lc_id()

    # LangGraph writes the name that an object gives as its class into checkpoints, and its strict
    # serialiser makes objects of classes that it knows, dicts of all others.
    @property  # type: ignore[misc]
    def __class__(self) -> type[Document]:  # type: ignore[override]
        return Document

    def __reduce__(self) -> tuple[Any, ...]:  # pickle would compare that class with the type
        return RefragDocument.__new__, (RefragDocument,), self.__getstate__()


def document_stores(documents: object, resolver: Resolver) -> dict[str, ChunkStore | None]:
    """Reads documents in any of the forms in which LangChain hands them over.

    Args:
        documents: A list or tuple of ``Document``, of the dicts that checkpoints make of them, or
            of strings; None for no documents.
        resolver: Says whether vectors belong to the text next to them.

    Returns:
        For each text the store of its chunk vectors; None unless the document carries them or
        names one.

    Raises:
        TypeError: If it is something else.
    """
    return read_documents(documents, partial(_text_and_store, resolver=resolver))


def carried_stores(documents: Iterable[Document]) -> dict[str, ChunkStore]:
    """As ``prompts.carried.carried_stores``, of LangChain's documents."""
    return carried.carried_stores(
        (each.page_content, each.metadata.get(KEY_METADATA), each.chunk_vectors)
        for each in documents
        if isinstance(each, RefragDocument)
    )


def _text_and_store(document: object, *, resolver: Resolver) -> tuple[str, ChunkStore | None]:
    if not isinstance(document, Document):
        return document_text(document), None
    text = document.page_content
    if not isinstance(document, RefragDocument):
        return text, None
    return text, carried_stores([document]).get(resolver.key_of(text), document.store)
