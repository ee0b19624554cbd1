"""Examples for few-shot prompts that the model compresses: hundreds instead of a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.prompts.string import StringPromptTemplate

from langchain_refrag.runs import note_documents
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragExampleSelector"]


class RefragExampleSelector(BaseExampleSelector):
    """Selects examples that ``ChatRefrag`` and ``RefragLLM`` read as chunk embeddings.

    For a ``FewShotPromptTemplate``, in place of its examples or around another selector. The prompt
    stays the same text; the models find the examples in it again if the prompt is a step of the
    chain, graph or agent that they run in. Chunk vectors are made once for each example, so that
    hundreds of them cost a prompt little.

    Example:
        >>> from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate
        >>> layout = PromptTemplate.from_template("{text} -> {label}")
        >>> examples = [
        ...     {"text": "The pump leaks.", "label": "fault"},
        ...     {"text": "When do you open?", "label": "question"},
        ... ]
        >>> prompt = FewShotPromptTemplate(
        ...     example_selector=RefragExampleSelector(examples, layout),
        ...     example_prompt=layout,
        ...     suffix="{text} ->",
        ...     input_variables=["text"],
        ... )
        >>> print(prompt.format(text="The door sticks."))
        The pump leaks. -> fault
        <BLANKLINE>
        When do you open? -> question
        <BLANKLINE>
        The door sticks. ->

    Args:
        examples: The examples, or a selector of which every example is taken.
        example_prompt: Lays out one example; the same as the few-shot prompt's.
        k: Most examples, the first ones; all by default.
        store: Where the examples' chunk vectors are kept; the answering model's store if None.
    """

    def __init__(
        self,
        examples: Sequence[dict[str, Any]] | BaseExampleSelector,
        example_prompt: StringPromptTemplate,
        *,
        k: int | None = None,
        store: ChunkStore | None = None,
    ) -> None:
        self.examples = examples if isinstance(examples, BaseExampleSelector) else list(examples)
        self.example_prompt = example_prompt
        self.k = k
        self.store = store

    def add_example(self, example: dict[str, Any]) -> Any:
        """Adds an example, to the other selector if there is one."""
        if isinstance(self.examples, BaseExampleSelector):
            return self.examples.add_example(example)
        return self.examples.append(example)

    def select_examples(self, input_variables: dict[str, Any]) -> list[dict[str, Any]]:
        """All examples or those of the other selector, at most k; notes them for the models."""
        if isinstance(self.examples, BaseExampleSelector):
            chosen = self.examples.select_examples(input_variables)
        else:
            chosen = self.examples
        return self._noted(chosen[: self.k])

    async def aselect_examples(self, input_variables: dict[str, Any]) -> list[dict[str, Any]]:
        """As ``select_examples``."""
        if isinstance(self.examples, BaseExampleSelector):
            chosen = await self.examples.aselect_examples(input_variables)
        else:
            chosen = self.examples
        return self._noted(chosen[: self.k])

    def _noted(self, chosen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        documents = [
            Document(page_content=self.example_prompt.format(**example)) for example in chosen
        ]
        note_documents("", documents, self.store, None)
        return list(chosen)
