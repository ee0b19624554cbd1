"""Documents to prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelLike
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough

from langchain_refrag.documents import KEY_METADATA
from langchain_refrag.runs import note_documents
from refrag_components.prompts.resolver import format_envelope

__all__ = ["create_refrag_documents_chain", "format_refrag_documents"]

_SEPARATOR = "\n\n"


def format_refrag_documents(documents: Iterable[Document], *, separator: str = _SEPARATOR) -> str:
    """Joins passages, each in an envelope that any process recognises.

    For prompts that are strings and cross processes, or are built where no ``RefragRetriever``
    runs: ``retriever | format_refrag_documents``. A passage goes into an envelope if it has a key
    in ``metadata["refrag_key"]``, as documents of ``RefragRetriever(model=...)`` have; the others
    are joined as they are and recognised only in the run that retrieved them. Models other than
    ``ChatRefrag`` and ``RefragLLM`` read the envelopes as text.

    Args:
        documents: Passages.
        separator: Text between the passages.
    """
    return separator.join(_enveloped(document) for document in documents)


def create_refrag_documents_chain(
    llm: LanguageModelLike,
    prompt: BasePromptTemplate,
    *,
    output_parser: BaseOutputParser | None = None,
    document_prompt: BasePromptTemplate | None = None,
    document_separator: str = _SEPARATOR,
    document_variable_name: str = "context",
) -> Runnable[dict[str, Any], Any]:
    """Makes a chain that passes documents to a model, which compresses them.

    Replaces ``create_stuff_documents_chain``, with the same arguments and the same prompt. The
    difference is that documents need not come from a ``RefragRetriever``: a reranker, a database or
    a test may have made them.

    Example:
        ```python
        chain = create_refrag_documents_chain(ChatRefrag(model="refrag-smollm2-135m"), prompt)
        chain.invoke({"context": documents, "question": "When was the harbour dug?"})
        ```

    Args:
        llm: The model that answers.
        prompt: Has ``document_variable_name`` among its variables.
        output_parser: Reads the answer; its text by default.
        document_prompt: Lays out one document from "page_content" and its metadata; only the text
            is compressed. The text alone by default.
        document_separator: Text between documents.
        document_variable_name: Key of the documents in the chain's input.

    Raises:
        ValueError: If the prompt does not have that variable.
    """
    if document_variable_name not in prompt.input_variables:
        msg = (
            f"the prompt has no variable {document_variable_name!r} for the documents, only "
            f"{', '.join(prompt.input_variables)}; add it, or name another document_variable_name"
        )
        raise ValueError(msg)
    layout = document_prompt or PromptTemplate.from_template("{page_content}")

    def format_documents(inputs: Mapping[str, Any], config: RunnableConfig) -> str:
        documents = inputs[document_variable_name]
        note_documents("", documents, None, config.get("callbacks"))
        return document_separator.join(format_document(document, layout) for document in documents)

    formatted: Runnable[Any, Any] = RunnablePassthrough.assign(
        **{document_variable_name: RunnableLambda(format_documents)}
    ).with_config(run_name="format_inputs")
    chain = formatted | prompt | llm | (output_parser or StrOutputParser())
    return chain.with_config(run_name="refrag_documents_chain")


def _enveloped(document: Document) -> str:
    key = document.metadata.get(KEY_METADATA)
    text = document.page_content
    return text if key is None else format_envelope(text, str(key))
