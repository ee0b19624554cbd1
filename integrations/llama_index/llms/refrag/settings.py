"""What can be set on ``RefragLLM``, and what of it with a single call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field
from pydantic import SkipValidation

from refrag_components.generation.settings import check_settings, warn_of_unknown
from refrag_components.policies import DEFAULT_POLICY, Budget, FractionBudget
from refrag_components.stores.base import ChunkStore

__all__ = ["DEFAULT_MODEL", "GenerationSettings", "effective_window"]

DEFAULT_MODEL = "refrag-smollm2-135m"

_BY_CALL = ("policy", "budget", "max_tokens", "temperature", "top_p", "stop", "seed")
_UNCOMPRESSED_SHARE = 4  # part of the window that template, question and history may need


class GenerationSettings(BaseModel):
    """Settings of an answer.

    Raises:
        BudgetError: If the budget is neither a fraction nor a number of positions.
        SamplingError: If a sampling parameter is outside its range.
        UnknownModelError: If there is no such checkpoint.
        UnknownPolicyError: If no policy has that name.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str = DEFAULT_MODEL
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    policy: str = DEFAULT_POLICY
    budget: SkipValidation[float | Budget] = 0.25
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] | None = None
    seed: int | None = None
    device: str | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        warn_of_unknown(type(self).__name__, values, type(self).model_fields)
        # Not a validator: pydantic would wrap the library's own errors.
        check_settings(self.model, self)

    def _for_call(self, overrides: Mapping[str, Any]) -> Self:
        """These settings as one call wants them.

        Raises:
            TypeError: If the call names something that is no setting.
            RefragError: As the constructor.
        """
        if unknown := sorted(set(overrides) - set(_BY_CALL)):
            msg = (
                f"{type(self).__name__} takes no {', '.join(unknown)} with a call; it takes "
                f"documents, question, {', '.join(_BY_CALL)}"
            )
            raise TypeError(msg)
        if not overrides:
            return self
        call = self.model_copy(update=dict(overrides))
        check_settings(call.model, call)
        return call


def effective_window(window: int, chunk_size: int, budget: Budget, max_tokens: int) -> int:
    """How long a prompt LlamaIndex may build, counted in tokens before compression.

    A quarter of the decoder's window is kept for text that is never compressed and up to a quarter
    for the answer; passages fill the rest, at the compression rate that the budget asks for.

    Args:
        window: The decoder's window in positions.
        chunk_size: Tokens of a chunk.
        budget: What the policy works with.
        max_tokens: Longest answer.

    Returns:
        Tokens, never fewer than ``window``.
    """
    share = window // _UNCOMPRESSED_SHARE
    kept = share + min(max_tokens, share)
    room = window - kept
    if isinstance(budget, FractionBudget):
        expanded = budget.fraction
        context = room * chunk_size / (1 - expanded + chunk_size * expanded)
    else:
        # One position a chunk is the least that passages take, and more chunks than positions are
        # an error. The last chunk of a passage is short, so not all of that can be filled.
        context = 0.75 * chunk_size * min(budget.number, room)
    return max(window, kept + int(context))
