"""What ``ChatRefrag`` and ``RefragLLM`` have in common: their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from refrag_components.generation.report import Report
from refrag_components.generation.settings import check_settings, warn_of_unknown
from refrag_components.generation.shared_checkpoints import (
    Checkpoint,
    checkpoint_digest,
    load_checkpoint,
)
from refrag_components.policies import DEFAULT_POLICY, Budget, parse_budget
from refrag_components.prompts.registry import default_registry
from refrag_components.prompts.resolver import Resolver
from refrag_components.stores.base import ChunkStore

__all__ = ["RefragSettings"]

_BY_CALL = ("model", "policy", "budget", "max_tokens", "temperature", "top_p", "seed")


class RefragSettings(BaseModel):
    """Settings of a REFRAG model in LangChain.

    Each of ``model``, ``policy``, ``budget``, ``max_tokens``, ``temperature``, ``top_p``, ``seed``
    and ``stop`` may also be given with a single call or through ``bind``.

    Attributes:
        model_name: Checkpoint (``model=``): a bundled name, a folder or a hub id. Loaded with the
            first call and shared by all that use it on the same device.
        store: Where chunk vectors of passages are kept whose retriever named no store; in memory
            by default.
        policy: Which chunks expand into tokens: one of ``refrag_components.policies.POLICIES``, or
            "auto": ``learned-query`` where the checkpoint carries it, else ``late-interaction``.
        budget: How much may expand: a fraction of the chunks in 0..1, or an int from 2 on, the
            number of decoder positions for all passages.
        max_tokens: Most tokens to generate.
        temperature: 0 takes the likeliest token each time.
        top_p: Below 1 only the likeliest tokens that reach this mass are drawn from.
        stop: Strings that end the answer.
        seed: Same seed, same answer.
        device: Such as "cpu" or "cuda:1"; CUDA where there is one by default.

    Raises:
        BudgetError: If the budget is neither a fraction nor a number of positions.
        SamplingError: If a sampling parameter is outside its range.
        UnknownModelError: If there is no such checkpoint.
        UnknownPolicyError: If no policy has that name.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model_name: str = Field(alias="model")
    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    policy: str = DEFAULT_POLICY
    budget: SkipValidation[float | Budget] = 0.25
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] | None = None
    seed: int | None = None
    device: str | None = None

    _call_only: ClassVar[frozenset[str]] = frozenset()  # accepted with a call, but no setting

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        fields = type(self).model_fields
        known = {*fields, *(field.alias for field in fields.values() if field.alias)}
        warn_of_unknown(type(self).__name__, values, known)
        # Not a validator: pydantic would wrap the library's own errors.
        check_settings(self.model_name, self)

    def _for_call(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> Self:
        """These settings as one call wants them.

        Raises:
            TypeError: If the call names something that is no setting.
            RefragError: As the constructor.
        """
        overrides = {name: overrides[name] for name in overrides if name not in self._call_only}
        if unknown := sorted(set(overrides) - set(_BY_CALL)):
            msg = f"{type(self).__name__} takes no {', '.join(unknown)} with a call"
            raise TypeError(msg)
        changes = {"model_name" if name == "model" else name: overrides[name] for name in overrides}
        if stop:
            changes["stop"] = stop
        if not changes:
            return self
        call = self.model_copy(update=changes)
        check_settings(call.model_name, call)
        return call

    def _split_call(
        self, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Self, dict[str, Any]]:
        """These settings as one call wants them, and what else the call was given."""
        overrides = {name: kwargs[name] for name in kwargs if name in _BY_CALL}
        rest = {name: kwargs[name] for name in kwargs if name not in _BY_CALL}
        return self._for_call(stop, overrides), rest

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything but the prompt that decides the answer; LangChain's caches are keyed by it."""
        return {
            "model_name": self.model_name,
            "checkpoint": checkpoint_digest(self.model_name),
            "policy": self.policy,
            "budget": parse_budget(self.budget).number,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
            "seed": self.seed,
            "device": self.device,
        }

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text by the decoder's own tokenizer, for counting."""
        ids: list[int] = self._checkpoint().model.chunker.chunk([text])[0].token_ids.tolist()
        return ids

    def _checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.model_name, self.device)

    def _resolver(self) -> Resolver:
        fingerprint = self._checkpoint().model.fingerprint
        return Resolver(default_registry(), fingerprint, self.store)

    def _metadata(
        self, report: Report, finish_reason: str | None, warnings: Sequence[str]
    ) -> dict[str, Any]:
        """What a complete answer says about itself."""
        refrag = replace(report, warnings=[*warnings, *report.warnings]).to_dict()
        return {"model_name": self.model_name, "finish_reason": finish_reason, "refrag": refrag}
