"""A chat model compares the parts of passages with each other, a few at a time."""

from __future__ import annotations

import logging
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

__all__ = ["ComparisonPolicy"]

_INSTRUCTION = (
    "Which of these parts helps most to answer the question? Name all their numbers, the most "
    "helpful first, and nothing else."
)

logger = logging.getLogger(__name__)


class ComparisonPolicy(Policy):
    """Lets a chat model put parts of the passages in order, under a budget of comparisons.

    The order starts as that of another policy. A window moves over it from the end to the front,
    and in each place the model puts the parts in it in order, so that the best ones rise.
    With two parts in the window these are pairwise comparisons (arXiv 2306.17563), with more they
    are listwise ones (arXiv 2304.09542). Passes are made until the comparisons are used up or
    nothing changes. Only as many parts take part as one pass can compare: those that ranked first.

    Each comparison waits for the one before it. A reply that names nothing leaves its window as it
    was, with a warning in the log, and a model that fails ends the comparisons.

    Args:
        llm: As for ``NaturalLanguagePolicy``.
        comparisons: Most calls of the model per request, at least 1.
        window: Parts that are compared in one call, at least 2.
        stretch: Tokens of a part.
        otherwise: The policy whose order it starts with; if None ``auto`` of the checkpoint which
            this policy works for, or ``late-interaction`` where it was given a tokenizer.
        tokenizer: The decoder's; that of the checkpoint which the policy works for if None.

    Raises:
        TypeError: If ``llm`` is not a model.
        ValueError: If a number is too small.
    """

    name: ClassVar[str] = "comparison"

    def __init__(
        self,
        llm: Any,
        *,
        comparisons: int = 16,
        window: int = 2,
        stretch: int = 32,
        otherwise: Policy | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if comparisons < 1 or window < 2 or stretch < 1:
            msg = (
                "comparisons and stretch must be at least 1 and window at least 2, got "
                f"{comparisons}, {stretch} and {window}"
            )
            raise ValueError(msg)
        self._ask = asking(llm)
        self._llm = llm
        self._comparisons, self._window, self._stretch = comparisons, window, stretch
        self._tokenizer, self._given = tokenizer, otherwise
        self._otherwise = LateInteractionPolicy() if otherwise is None else otherwise

    def of(self, model: RefragModel) -> ComparisonPolicy:
        """The same policy, which reads the tokens of this model."""
        if self._tokenizer is not None:
            otherwise, tokenizer = self._otherwise.of(model), self._tokenizer
            if otherwise is self._otherwise:
                return self
        else:
            given = DEFAULT_POLICY if self._given is None else self._given
            otherwise, tokenizer = make_policy(given, model), model.tokenizer
        return ComparisonPolicy(
            self._llm,
            comparisons=self._comparisons,
            window=self._window,
            stretch=self._stretch,
            otherwise=otherwise,
            tokenizer=tokenizer,
        )

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Above 1 for the parts that took part, in 0..1 for all else.

        Raises:
            ValueError: If the policy has no tokenizer, see ``of``.
        """
        if self._tokenizer is None:
            msg = "the policy reads text: give it tokenizer=, or call of(model)"
            raise ValueError(msg)
        otherwise = self._otherwise.scores(inputs)
        question = inputs.question.text.strip()
        parts = stretches(inputs, self._tokenizer, self._stretch) if question else []
        best = [float(otherwise[part.first : part.last].max()) for part in parts]
        order = np.argsort(-np.array(best), kind="stable").tolist()
        step = self._window // 2
        order = order[: self._window + step * (self._comparisons - 1)]
        return ranked_scores([[i] for i in self._ordered(question, parts, order)], parts, otherwise)

    def _ordered(self, question: str, parts: list[Stretch], order: list[int]) -> list[int]:
        """The order after all comparisons."""
        left = self._comparisons if len(order) > 1 else 0
        step, done = self._window // 2, 0  # so many at the front are settled
        while left and done < len(order) - 1:
            before = list(order)
            start = len(order) - self._window
            while left:
                start = max(start, done)
                place = slice(start, start + self._window)
                try:
                    order[place] = self._compared(question, parts, order[place])
                except Exception as error:  # other people's models fail in many ways
                    logger.warning("comparisons end, the chat model failed: %s", error)
                    return order
                left -= 1
                if start == done:
                    break
                start -= step
            if order == before:
                break
            done += step
        return order

    def _compared(self, question: str, parts: list[Stretch], window: list[int]) -> list[int]:
        numbered = "\n".join(f"[{n}] {parts[i].text}" for n, i in enumerate(window, start=1))
        prompt = f"Question: {question}\n\n{numbered}\n\n{_INSTRUCTION}\nNumbers:"
        (reply,) = self._ask([prompt])
        named = [window[n - 1] for n in numbers_in(reply, len(window))]
        if not named:
            logger.warning("a comparison changes nothing, the chat model said: %.80r", reply)
        return named + [i for i in window if i not in named]
