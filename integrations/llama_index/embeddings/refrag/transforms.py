"""Chunk vectors made at ingestion, so that no question waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, TransformComponent
from pydantic import SkipValidation

from llama_index.postprocessor.refrag.nodes import encoded_nodes
from refrag_components.stores.common.base import ChunkStore
from refrag_components.weights.lookup import DEFAULT_MODEL, checkpoint_folder

__all__ = ["ChunkVectorTransform"]


class ChunkVectorTransform(TransformComponent):
    """A step of an ``IngestionPipeline`` that puts the chunk vectors of nodes into a store.

    Put it after the splitter: the text of each node is one passage. Nodes come out with the key of
    their chunk vectors in ``metadata["refrag_key"]``, hidden from prompts and embeddings. Give the
    same store to ``RefragNodePostprocessor`` or ``RefragLLM`` when questions are asked.

    A pipeline with a cache skips this step for nodes that it has seen. If the store has been
    emptied since, the chunk vectors are made again when a question first needs them.

    Example:
        ```python
        store = SQLiteStore("chunk-vectors.sqlite")
        pipeline = IngestionPipeline(
            transformations=[splitter, ChunkVectorTransform(store=store), embed_model]
        )
        ```

    Attributes:
        model: Checkpoint that encodes: the one that will answer, or one with the same encoder.
        store: Where chunk vectors go; the checkpoint's store in memory if None, which only
            questions in the same process can use.
        device: Where the checkpoint runs; by default CUDA if available.

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """

    model: str = DEFAULT_MODEL
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    device: str | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        checkpoint_folder(self.model)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "ChunkVectorTransform"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Encodes what neither the store nor the nodes have, and stores what these carry.

        Args:
            nodes: Nodes; they are not modified.
            **kwargs: Keywords for other steps of the pipeline.

        Returns:
            Copies with keys, in order.
        """
        return encoded_nodes(nodes, self.model, store=self.store, device=self.device)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """As the call, in a thread."""
        return await asyncio.to_thread(self, nodes, **kwargs)
