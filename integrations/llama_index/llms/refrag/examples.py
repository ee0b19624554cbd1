"""Examples for prompts that the model compresses: hundreds instead of a few."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from llama_index.core.prompts import BasePromptTemplate, PromptTemplate

from llama_index.llms.refrag.runs import retrieved_in_run
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragExamples"]

Example = Mapping[str, Any]


class RefragExamples:
    r"""Fills a variable of a prompt with examples that ``RefragLLM`` reads as chunk embeddings.

    It is a function for the ``function_mappings`` of any prompt template. The prompt stays the same
    text; ``RefragLLM`` finds the examples in it again if the prompt is formatted in the request
    that it answers: by ``predict`` and ``stream``, ``structured_predict``, a query engine or a chat
    engine. Chunk vectors are made once for each example, so that hundreds of them cost a prompt
    little.

    Example:
        >>> shown = RefragExamples(
        ...     [
        ...         {"text": "The pump leaks.", "label": "fault"},
        ...         {"text": "When do you open?", "label": "question"},
        ...     ],
        ...     "{text} -> {label}",
        ... )
        >>> prompt = PromptTemplate("{shown}\n\n{text} ->", function_mappings={"shown": shown})
        >>> print(prompt.format(text="The door sticks."))
        The pump leaks. -> fault
        <BLANKLINE>
        When do you open? -> question
        <BLANKLINE>
        The door sticks. ->

    Args:
        examples: The examples; or a function that chooses them, to which the variables of the
            prompt are given, such as one that searches for similar ones. LlamaIndex formats prompts
            in the event loop, and so calls it there, where an answer is awaited.
        example_prompt: Lays out one example.
        k: Most examples, the first ones; all by default.
        separator: What stands between two of them.
        store: Where the examples' chunk vectors are kept; the answering LLM's store if None.
    """

    def __init__(
        self,
        examples: Sequence[Example] | Callable[..., Sequence[Example]],
        example_prompt: BasePromptTemplate | str,
        *,
        k: int | None = None,
        separator: str = "\n\n",
        store: ChunkStore | None = None,
    ) -> None:
        self.examples = examples
        if isinstance(example_prompt, str):
            example_prompt = PromptTemplate(example_prompt)
        self.example_prompt = example_prompt
        self.k = k
        self.separator = separator
        self.store = store

    def __call__(self, **variables: Any) -> str:
        """The text of the examples; notes them for the model.

        Args:
            **variables: What the prompt is filled with otherwise.
        """
        chosen = self.examples(**variables) if callable(self.examples) else self.examples
        texts = [self.example_prompt.format(**each) for each in islice(chosen, self.k)]
        request = retrieved_in_run()
        if request is not None:
            request.add(Retrieval.of("", texts, self.store))
        return self.separator.join(texts)

    def __deepcopy__(self, memo: dict[int, Any]) -> RefragExamples:
        """Prompts that are filled in part are copied deeply; the store has to stay the same."""
        return copy.copy(self)
