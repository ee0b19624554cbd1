"""A postprocessor for any LLM: nodes are cut down to what the policy would expand, as text."""

from __future__ import annotations

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from refrag_components.excerpts import ExcerptSettings
from refrag_components.excerpts.settings import SPANS_METADATA
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragExcerptPostprocessor"]


class RefragExcerptPostprocessor(ExcerptSettings, BaseNodePostprocessor):
    """Cuts retrieved nodes down to what the question needs, for an LLM that reads text.

    The policy scores chunks by their vectors, without a look at the text and without a decoder, in
    milliseconds; what it would expand is kept as text, in order, in whole sentences or words. Works
    with any LLM. (``RefragLLM`` needs none: it reads the rest as chunk embeddings, see
    ``RefragNodePostprocessor``.)

    If anything goes wrong, nodes are passed on as they came, with a warning in the log; so are
    nodes that hold no text, and all of them if there is no query.

    Example:
        ```python
        engine = index.as_query_engine(
            llm=OpenAI("gpt-4o"),
            node_postprocessors=[RefragExcerptPostprocessor(budget=500, tokens_of="gpt-4o")],
        )
        ```

    All other settings: see ``ExcerptSettings``.

    Attributes:
        model: Checkpoint whose encoder and policy are used.
    """

    model: str = DEFAULT_MODEL

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "RefragExcerptPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        texts = {
            i: each.node
            for i, each in enumerate(nodes)
            if isinstance(each.node, TextNode) and each.node.get_content(MetadataMode.NONE).strip()
        }
        if query_bundle is None or not texts:
            return nodes
        passages = [node.get_content(MetadataMode.NONE) for node in texts.values()]
        made = self._excerpts(self.model, query_bundle.query_str, passages)
        if made is None:
            return nodes
        excerpts = dict(zip(texts, made, strict=True))
        found = []
        for i, each in enumerate(nodes):
            if i not in excerpts:
                found.append(each)
            elif excerpts[i].text:
                node = texts[i].model_copy(deep=True)
                node.set_content(excerpts[i].text)
                node.metadata[SPANS_METADATA] = [list(span) for span in excerpts[i].spans]
                for hidden in (node.excluded_llm_metadata_keys, node.excluded_embed_metadata_keys):
                    hidden.append(SPANS_METADATA)
                found.append(NodeWithScore(node=node, score=each.score))
        return found
