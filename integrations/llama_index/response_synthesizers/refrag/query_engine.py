"""Retriever, synthesizer and LLM in one query engine."""

from __future__ import annotations

from typing import Any, Self
from warnings import warn

from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer

from llama_index.llms.refrag import RefragLLM
from llama_index.response_synthesizers.refrag.base import RefragSynthesizer
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragQueryEngine", "default_llm"]


class RefragQueryEngine(RetrieverQueryEngine):
    """A ``RetrieverQueryEngine`` that compresses and reports.

    Example:
        ```python
        engine = RefragQueryEngine.from_args(index.as_retriever(similarity_top_k=4))
        response = engine.query("When was the harbour dug?")
        print(response, response.metadata["refrag"])
        ```
    """

    @classmethod
    def from_args(  # type: ignore[override]  # what the base takes last goes by name here
        cls,
        retriever: BaseRetriever,
        llm: LLM | None = None,
        response_synthesizer: BaseSynthesizer | None = None,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
        *,
        store: ChunkStore | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        streaming: bool = False,
        **others: Any,
    ) -> Self:
        """Makes a query engine with a ``RefragSynthesizer``.

        Args:
            retriever: The retriever that searches.
            llm: If None, ``Settings.llm`` if that is a ``RefragLLM``, else ``RefragLLM()`` with the
                bundled checkpoint.
            response_synthesizer: In place of a ``RefragSynthesizer``; the arguments below are its
                own.
            node_postprocessors: Rerankers and the like; REFRAG needs none.
            callback_manager: As for every query engine.
            store: Where chunk vectors of the passages are kept; the LLM's store if None.
            text_qa_template: Prompt with ``{context_str}`` and ``{query_str}``.
            streaming: Whether to stream the answer.
            **others: What else the base takes (``response_mode``, ``refine_template``, ...). It
                says how several prompts are made; as there is one, it is ignored with a warning.
        """
        if ignored := [name for name, value in others.items() if value]:
            warn(f"{cls.__name__} makes one prompt and ignores {', '.join(ignored)}", stacklevel=2)
        synthesizer = response_synthesizer or RefragSynthesizer(
            default_llm() if llm is None else llm,
            store=store,
            text_qa_template=text_qa_template,
            streaming=streaming,
            callback_manager=callback_manager,
        )
        return cls(
            retriever=retriever,
            response_synthesizer=synthesizer,
            node_postprocessors=node_postprocessors,
            callback_manager=callback_manager,
        )


def default_llm() -> LLM:
    """The LLM of an engine that is given none."""
    chosen = Settings._llm  # the property makes one of OpenAI where nobody has chosen
    return chosen if isinstance(chosen, RefragLLM) else RefragLLM()
