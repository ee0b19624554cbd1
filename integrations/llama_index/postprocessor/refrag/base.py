"""A postprocessor after which passages are compressed in any prompt."""

from __future__ import annotations

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import SkipValidation

from llama_index.postprocessor.refrag.nodes import prepared_nodes
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragNodePostprocessor"]


class RefragNodePostprocessor(BaseNodePostprocessor):
    """Notes what was retrieved so that ``RefragLLM`` compresses it in the prompts of the request.

    Put it last, after rerankers and whatever else chooses or changes nodes. Texts, scores and order
    stay the same, so prompts do too, and any other LLM can still read them. The query is noted,
    too, for the policy to find it in the prompt; metadata that LlamaIndex prints above a text is
    read as ordinary tokens.

    With a ``model`` the chunk vectors are made here, unless the store has them, and the nodes carry
    their key in ``metadata["refrag_key"]``, hidden from prompts and embeddings. Without one,
    ``RefragLLM`` makes them when it first reads a passage.

    Example:
        ```python
        engine = index.as_query_engine(
            llm=RefragLLM(), node_postprocessors=[reranker, RefragNodePostprocessor()]
        )
        ```

    Attributes:
        store: Where chunk vectors of the passages are kept; the answering LLM's store if None.
        model: Checkpoint that makes missing chunk vectors; None to leave that to the LLM.
        device: Where that checkpoint runs.
    """

    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    model: str | None = None
    device: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "RefragNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = "" if query_bundle is None else query_bundle.query_str
        return prepared_nodes(query, nodes, store=self.store, model=self.model, device=self.device)
