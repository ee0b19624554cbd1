"""A compressor of documents for any model: it reads what the policy would expand, as text."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, Field

from refrag_components.excerpts import ExcerptSettings
from refrag_components.excerpts.settings import SPANS_METADATA
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragDocumentCompressor"]


class RefragDocumentCompressor(ExcerptSettings, BaseDocumentCompressor):
    """Cuts retrieved documents down to what the question needs, for a model that reads text.

    The policy scores chunks by their vectors, without a look at the text and without a decoder, in
    milliseconds; what it would expand is kept as text, in order, in whole sentences or words. Works
    with any chat model: hand it to ``ContextualCompressionRetriever``, or call
    ``compress_documents``. (``ChatRefrag`` needs none: it picks from the prompt itself.)

    If anything goes wrong, documents are passed on as they came, with a warning in the log.

    Example:
        >>> compressor = RefragDocumentCompressor(model=checkpoint, budget=12, unit="words")
        >>> passage = "The harbour was dug in 1907. It lies north of the old town, behind a mole."
        >>> documents = [Document(page_content=passage, metadata={"page": 3})]
        >>> found = compressor.compress_documents(documents, "When was it dug?")
        >>> [document.metadata["page"] for document in found]
        [3]

    ``checkpoint`` is a bundled name, as the default is, a folder or a hub id. All other settings:
    see ``ExcerptSettings``.

    Attributes:
        model_name: Checkpoint (``model=``) whose encoder and policy are used.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model_name: str = Field(default=DEFAULT_MODEL, alias="model")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Takes what the query needs.

        Args:
            documents: Retrieved documents; they are not modified.
            query: What the user asks.
            callbacks: Unused: no model is called.

        Returns:
            Copies with their ids and metadata, in order, without those of which nothing is read.
            ``metadata["refrag_spans"]`` has the start and end of each stretch in the document.
        """
        made = self._excerpts(self.model_name, query, [d.page_content for d in documents])
        if made is None:
            return list(documents)
        return [
            document.model_copy(
                update={
                    "page_content": excerpt.text,
                    "metadata": {**document.metadata, SPANS_METADATA: list(excerpt.spans)},
                }
            )
            for document, excerpt in zip(documents, made, strict=True)
            if excerpt.text
        ]
