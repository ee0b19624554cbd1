"""A chat model reads the passages and says what expands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from refrag_components.policies.asking import asking, numbers_in
from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.policies.making import make_policy
from refrag_components.policies.named.late_interaction import LateInteractionPolicy
from refrag_components.policies.names import DEFAULT_POLICY
from refrag_components.policies.stretches import Stretch, ranked_scores, stretches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from refrag_components.modeling import RefragModel

__all__ = ["INSTRUCTION", "NaturalLanguagePolicy"]

#: What the model is asked unless there is another instruction.
INSTRUCTION = (
    "Below are numbered parts of some passages, and a question. Which parts must be read word for "
    "word to answer the question? Name their numbers, the most important first, and nothing else. "
    "If no part helps, write 0."
)

logger = logging.getLogger(__name__)


class NaturalLanguagePolicy(Policy):
    """Lets a chat model say which chunks expand.

    It reads stretches of neighbouring chunks as numbered text, many in one prompt, and names
    numbers, the most important first. They expand first, whatever else it says: how much expands is
    up to the budget alone. What is left of a budget, and what a model leaves undecided, is filled
    by another policy; so is all of it, with a warning in the log, if the model fails or names
    nothing.

    It reads every passage, so it costs what the compression saves, and is for measurements, for
    strong cheap models, and for teaching. ``refrag_components.training.instructions`` looks for a
    better instruction.

    Example:
        ```python
        ChatRefrag(policy=NaturalLanguagePolicy(ChatOpenAI(model="gpt-4o-mini")), budget=0.1)
        ```

    Args:
        llm: A chat model of LangChain or LlamaIndex, or a function from a prompt to a reply. Give
            it temperature 0: the same request should expand the same chunks.
        instruction: What it is asked to do.
        stretch: Tokens of a numbered part.
        at_once: Parts per prompt; a longer context takes several prompts.
        otherwise: Ranks what the chat model leaves undecided; if None ``auto`` of the checkpoint
            which the policy works for, or ``late-interaction`` where it was given a tokenizer.
        tokenizer: The decoder's; that of the checkpoint which the policy works for if None.

    Raises:
        TypeError: If ``llm`` is none of these.
        ValueError: If ``stretch`` or ``at_once`` is less than 1.
    """

    name: ClassVar[str] = "natural-language"

    def __init__(
        self,
        llm: Any,
        *,
        instruction: str = INSTRUCTION,
        stretch: int = 32,
        at_once: int = 60,
        otherwise: Policy | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if stretch < 1 or at_once < 1:
            msg = f"stretch and at_once must be at least 1, got {stretch} and {at_once}"
            raise ValueError(msg)
        self._ask = asking(llm)
        self._llm, self.instruction = llm, instruction
        self._stretch, self._at_once = stretch, at_once
        self._tokenizer, self._given = tokenizer, otherwise
        self._otherwise = LateInteractionPolicy() if otherwise is None else otherwise

    def of(self, model: RefragModel) -> NaturalLanguagePolicy:
        """The same policy, which reads the tokens of this model."""
        if self._tokenizer is not None:
            otherwise = self._otherwise.of(model)
            if otherwise is self._otherwise:
                return self
            return self._made(self.instruction, otherwise, self._tokenizer)
        otherwise = make_policy(DEFAULT_POLICY if self._given is None else self._given, model)
        return self._made(self.instruction, otherwise, model.tokenizer)

    def following(self, instruction: str) -> NaturalLanguagePolicy:
        """The same policy with another instruction."""
        return self._made(instruction, self._given, self._tokenizer)

    def _made(
        self,
        instruction: str,
        otherwise: Policy | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> NaturalLanguagePolicy:
        return NaturalLanguagePolicy(
            self._llm,
            instruction=instruction,
            stretch=self._stretch,
            at_once=self._at_once,
            otherwise=otherwise,
            tokenizer=tokenizer,
        )

    def stretches(self, inputs: PolicyInputs) -> list[Stretch]:
        """The numbered parts: the model's number 1 is the first of them.

        Raises:
            ValueError: If the policy has no tokenizer, see ``of``.
        """
        if self._tokenizer is None:
            msg = "the policy reads text: give it tokenizer=, or call of(model)"
            raise ValueError(msg)
        return stretches(inputs, self._tokenizer, self._stretch)

    def named(self, inputs: PolicyInputs) -> list[list[int]]:
        """Indices of the stretches that the model names, best first; [] if it names none.

        Those of one list come from different prompts and rank the same.
        """
        question = inputs.question.text.strip()
        parts = self.stretches(inputs) if question else []
        starts = range(0, len(parts), self._at_once)
        prompts = [self._prompt(question, parts[i : i + self._at_once]) for i in starts]
        try:
            replies = self._ask(prompts) if prompts else []
        except Exception as error:  # other people's models fail in many ways
            logger.warning(
                "chunks expand as by %s, the chat model failed: %s", self._otherwise.name, error
            )
            return []
        each = [
            [
                start + number - 1
                for number in numbers_in(reply, min(self._at_once, len(parts) - start))
            ]
            for start, reply in zip(starts, replies, strict=True)
        ]
        if replies and not any(each) and not all(reply.strip(" .\n") == "0" for reply in replies):
            logger.warning(
                "chunks expand as by %s, the chat model named no part: %.80r",
                self._otherwise.name,
                replies[0],
            )
        return [[i for i in rank if i is not None] for rank in zip_longest(*each)]

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Above 1 for what the model names, in 0..1 for all else."""
        return self.scores_of(inputs, self.named(inputs))

    def scores_of(self, inputs: PolicyInputs, named: list[list[int]]) -> np.ndarray:
        """The scores if these stretches are named."""
        parts = self.stretches(inputs) if named else []
        return ranked_scores(named, parts, self._otherwise.scores(inputs))

    def _prompt(self, question: str, parts: Sequence[Stretch]) -> str:
        numbered = "\n".join(f"[{i}] {part.text}" for i, part in enumerate(parts, start=1))
        return f"{self.instruction}\n\n{numbered}\n\nQuestion: {question}\nNumbers:"
