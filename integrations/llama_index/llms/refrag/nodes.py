"""Nodes that may carry their chunk vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from pydantic import InstanceOf

from refrag_components.prompts import carried
from refrag_components.prompts.carried import KEY_METADATA
from refrag_components.stores.common.base import ChunkStore
from refrag_components.vectors import ChunkVectors

__all__ = ["RefragNode", "carried_stores", "marked", "passage_of"]

_Node = TypeVar("_Node", bound=BaseNode)


class RefragNode(TextNode):
    """A ``TextNode`` that may carry the chunk vectors of its text.

    The vectors are not part of metadata, prompts, ``to_dict``, docstores or instrumentation, and
    what is loaded from those is a plain ``TextNode``. The short key in ``metadata["refrag_key"]``
    does travel; it names the vectors in a store.

    Attributes:
        chunk_vectors: Chunk vectors of ``text``, if they are known.
    """

    chunk_vectors: InstanceOf[ChunkVectors] | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Serialises as ``TextNode``, so that other processes need not know this class."""
        return TextNode.class_name()


def carried_stores(nodes: Iterable[BaseNode]) -> dict[str, ChunkStore]:
    """As ``prompts.carried.carried_stores``, of LlamaIndex' nodes."""
    return carried.carried_stores(
        (passage_of(node), node.metadata.get(KEY_METADATA), node.chunk_vectors)
        for node in nodes
        if isinstance(node, RefragNode)
    )


def marked(node: _Node, key: str) -> _Node:
    """A copy with the key of its chunk vectors, which prompts and embeddings do not show."""
    hidden = {
        name: sorted({*getattr(node, name), KEY_METADATA})
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**node.metadata, KEY_METADATA: key}, **hidden})


def passage_of(node: BaseNode) -> str:
    """The text of a node, without metadata and white space around it."""
    return node.get_content(metadata_mode=MetadataMode.NONE).strip()
