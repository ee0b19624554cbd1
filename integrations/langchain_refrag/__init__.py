"""REFRAG for LangChain: chunk embeddings instead of context tokens in an unchanged chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_refrag.chains import create_refrag_documents_chain, format_refrag_documents
from langchain_refrag.chat_models import ChatRefrag
from langchain_refrag.collections import RefragCollections
from langchain_refrag.compressors import RefragDocumentCompressor
from langchain_refrag.documents import RefragDocument
from langchain_refrag.embeddings import RefragEmbeddings
from langchain_refrag.examples import RefragExampleSelector
from langchain_refrag.llms import RefragLLM
from langchain_refrag.records import RecordRetriever
from langchain_refrag.retrievers import RefragRetriever
from langchain_refrag.stores import ByteChunkStore, RefragStore

if TYPE_CHECKING:
    from langchain_refrag.excerpt_middleware import RefragExcerptMiddleware
    from langchain_refrag.middleware import RefragMiddleware

__all__ = [
    "ByteChunkStore",
    "ChatRefrag",
    "RecordRetriever",
    "RefragCollections",
    "RefragDocument",
    "RefragDocumentCompressor",
    "RefragEmbeddings",
    "RefragExampleSelector",
    "RefragExcerptMiddleware",
    "RefragLLM",
    "RefragMiddleware",
    "RefragRetriever",
    "RefragStore",
    "create_refrag_documents_chain",
    "format_refrag_documents",
]


def __getattr__(name: str) -> type[RefragMiddleware | RefragExcerptMiddleware]:
    # The classes that need the package langchain, and not only langchain-core.
    if name == "RefragMiddleware":
        from langchain_refrag.middleware import RefragMiddleware

        return RefragMiddleware
    if name == "RefragExcerptMiddleware":
        from langchain_refrag.excerpt_middleware import RefragExcerptMiddleware

        return RefragExcerptMiddleware
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
