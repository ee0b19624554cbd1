"""Settings of an answer as the integrations take them, for a model or for a single call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from refrag_components.engines.base import Engine
from refrag_components.engines.sampling import SamplingParams
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import (
    Checkpoint,
    check_checkpoint,
    load_checkpoint,
)
from refrag_components.policies import (
    DEFAULT_POLICY,
    Budget,
    Policy,
    Rest,
    check_policy,
    parse_budget,
    parse_rest,
)
from refrag_components.prompts.parts import RenderedPart
from refrag_components.prompts.registry import default_registry
from refrag_components.prompts.resolver import Resolver
from refrag_components.stores.base import ChunkStore

__all__ = ["AnswerSettings"]


class AnswerSettings(BaseModel):
    """Settings that the models of every framework share.

    Subclasses have one more field, the checkpoint's name. Arguments of the constructor that are not
    settings are ignored with a warning: those of remote models (timeout, api_key) must not break a
    swap, but typos must show.

    Attributes:
        store: Where chunk vectors of passages are kept if their retriever named no store; in memory
            by default.
        engine: Runs the decoder of this checkpoint; transformers by default.
        policy: Which chunks expand into tokens: one of ``refrag_components.policies.POLICIES``, a
            policy, or "auto": ``learned-query`` if the checkpoint carries it, else
            ``late-interaction``.
        budget: How much may expand: a fraction of the chunks in 0..1, an int of at least 2
            (decoder positions for all passages, filled from the top: text first, then ever coarser
            chunk embeddings), or a budget.
        rest: What becomes of chunks that do not expand: "compress" or "drop".
        max_tokens: Maximum number of tokens to generate.
        temperature: 0 takes the likeliest token each time.
        top_p: Below 1, only the likeliest tokens that together reach this probability are drawn.
        stop: Strings that end the answer.
        seed: The same seed gives the same answer.
        device: Such as "cpu" or "cuda:1"; by default CUDA if available.

    Raises:
        BudgetError: If the budget or the rest is none of these.
        SamplingError: If a sampling parameter is outside its range.
        UnknownModelError: If there is no such checkpoint.
        UnknownPolicyError: If no policy has that name.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    engine: SkipValidation[Engine | None] = Field(default=None, exclude=True, repr=False)
    policy: SkipValidation[str | Policy] = DEFAULT_POLICY
    budget: SkipValidation[float | Budget] = 0.25
    rest: SkipValidation[Rest] = "compress"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] | None = None
    seed: int | None = None
    device: str | None = None

    _model_field: ClassVar[str] = "model"
    _by_call: ClassVar[tuple[str, ...]] = (
        *("policy", "budget", "rest", "max_tokens", "temperature", "top_p", "stop", "seed"),
    )
    _call_only: ClassVar[tuple[str, ...]] = ()  # accepted with a call, but not settings

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        fields = type(self).model_fields
        known = {*fields, *(field.alias for field in fields.values() if field.alias)}
        if unknown := sorted(set(values) - known):
            warnings.warn(f"{type(self).__name__} ignores {', '.join(unknown)}", stacklevel=2)
        # Not a validator: pydantic would wrap the library's own errors.
        check_checkpoint(self._checkpoint_name)
        self._check()

    @property
    def _checkpoint_name(self) -> str:
        name: str = getattr(self, self._model_field)
        return name

    def _for_call(self, overrides: Mapping[str, Any]) -> Self:
        """These settings with the overrides of one call.

        Raises:
            TypeError: If the call names something that is not a setting.
            RefragError: As the constructor.
        """
        overrides = {name: overrides[name] for name in overrides if name not in self._call_only}
        if unknown := sorted(set(overrides) - set(self._by_call)):
            msg = (
                f"{type(self).__name__} does not take {', '.join(unknown)} with a call; it takes "
                f"{', '.join((*self._call_only, *self._by_call))}"
            )
            raise TypeError(msg)
        if not overrides:
            return self
        changes = {
            self._model_field if name == "model" else name: overrides[name] for name in overrides
        }
        call = self.model_copy(update=changes)
        if "model" in overrides:
            check_checkpoint(call._checkpoint_name)
        call._check()
        return call

    def _check(self) -> None:
        """Refuses settings that no call could work with, before a model is loaded."""
        check_policy(self.policy)
        parse_budget(self.budget)
        parse_rest(self.rest)
        self._sampling_params()

    def _checkpoint(self) -> Checkpoint:
        return load_checkpoint(self._checkpoint_name, self.device)

    def _resolver(self) -> Resolver:
        return Resolver(default_registry(), self._checkpoint().model.fingerprint, self.store)

    def _ask(self, parts: Sequence[RenderedPart], question: str) -> Request:
        return Request(
            parts,
            question,
            policy=self.policy,
            budget=parse_budget(self.budget),
            rest=self.rest,
            engine=self.engine,
        )

    def _sampling_params(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop or (),
            seed=self.seed,
        )
