"""REFRAG for LangChain: chunk embeddings instead of context tokens in an unchanged chain."""

from __future__ import annotations

from langchain_refrag.chat_models import ChatRefrag
from langchain_refrag.documents import RefragDocument
from langchain_refrag.embeddings import RefragEmbeddings
from langchain_refrag.llms import RefragLLM
from langchain_refrag.retrievers import RefragRetriever
from langchain_refrag.stores import ByteChunkStore, RefragStore

__all__ = [
    "ByteChunkStore",
    "ChatRefrag",
    "RefragDocument",
    "RefragEmbeddings",
    "RefragLLM",
    "RefragRetriever",
    "RefragStore",
]
