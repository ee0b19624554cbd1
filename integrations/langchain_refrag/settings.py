"""What ``ChatRefrag`` and ``RefragLLM`` have in common: their settings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self
from warnings import warn

from pydantic import ConfigDict, Field, SkipValidation

from langchain_refrag.identity import plain_identity
from refrag_components.engines.base import TokenLogprob
from refrag_components.engines.sampling import SamplingParams, params_by_row
from refrag_components.exceptions import SamplingError, shown
from refrag_components.generation.openai_logprobs import written_for_chat
from refrag_components.generation.report import Report
from refrag_components.generation.settings import AnswerSettings
from refrag_components.generation.shared_checkpoints import answering_digest
from refrag_components.policies import parse_budget
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["WITHOUT_INFLUENCE", "RefragSettings", "told"]

#: Fields that do not change the answer; every other field is part of the key of LangChain's
#: caches, so that a new setting cannot be forgotten there.
WITHOUT_INFLUENCE = frozenset(
    {
        "api_key",
        "cache",
        "callbacks",
        "connect_timeout",
        "custom_get_token_ids",
        "disable_streaming",
        "metadata",
        "name",
        "profile",
        "rate_limiter",
        "read_timeout",
        "store",
        "streaming",
        "tags",
        "timeout",
        "verbose",
    }
)


_REMOTE_ONLY = ("frequency_penalty", "logit_bias", "presence_penalty", "service_tier", "user")


class RefragSettings(AnswerSettings):
    """Settings of a REFRAG model in LangChain, see ``AnswerSettings``.

    Each of ``model``, ``policy``, ``budget``, ``rest``, ``max_tokens``, ``temperature``, ``top_p``,
    ``top_k``, ``repetition_penalty``, ``seed``, ``reproducible``, ``stop``, ``n``, ``logprobs``,
    ``top_logprobs`` and ``timeout`` may also be given with a single call or through ``bind``. What
    only remote models offer (such as ``logit_bias``) is ignored with a warning. With ``logprobs``
    they are next to the report, as OpenAI writes them.

    ``dumps`` writes the settings, without ``api_key``, ``store`` and ``engine``. ``loads``, told
    the class (``allowed_objects=[ChatRefrag]``) and its package
    (``valid_namespaces=["langchain_refrag"]``), makes the model of them where its checkpoint is at
    hand.

    Attributes:
        model_name: Checkpoint (``model=``): a bundled name, as the default is, a folder or a hub
            id. Loaded with the first call and shared by all models that use it on the same device.
        n: Answers per prompt; answer i is drawn with ``seed + i``. A stream is one answer.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model_name: str = Field(default=DEFAULT_MODEL, alias="model")
    n: SkipValidation[int] = 1

    _model_field: ClassVar[str] = "model_name"
    _by_call: ClassVar[tuple[str, ...]] = (
        *("model", "n"),
        *AnswerSettings._by_call,
    )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain may write it down; True."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """What is never written down, and the variable of the environment with it."""
        return {"api_key": "REFRAG_API_KEY"}

    def _check(self) -> None:
        super()._check()
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            msg = f"n must be an int of at least 1, got {shown(self.n)}"
            raise SamplingError(msg)

    async def _look(self, overrides: Mapping[str, Any]) -> None:
        """Finds out in a thread what ``_identifying_params`` says, also of the model of a call."""

        def look() -> list[dict[str, Any]]:
            models = (self, self._for_call({"model": overrides.get("model")}))
            return [model._identifying_params for model in models]

        await asyncio.to_thread(look)

    def _each_params(self, params: SamplingParams) -> list[SamplingParams]:
        """The parameters of each answer to one prompt."""
        return params_by_row(params, self.n)

    def _refuse_several(self) -> None:
        if self.n > 1:
            msg = f"a stream is one answer; n={self.n} needs invoke, batch or generate"
            raise SamplingError(msg)

    def _call(
        self, stop: list[str] | None, overrides: Mapping[str, Any], *, warns: bool = True
    ) -> Self:
        """These settings with the overrides of one call, see ``_for_call``."""
        overrides = dict(overrides)
        ignored = [name for name in _REMOTE_ONLY if overrides.pop(name, None) is not None]
        if ignored and warns:
            warn(f"{type(self).__name__} ignores {', '.join(ignored)}", stacklevel=2)
        return self._for_call({**overrides, "stop": stop} if stop else overrides)

    def _split_call(
        self, stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Self, dict[str, Any]]:
        """These settings with the overrides of one call, and the call's other keywords."""
        overrides = {name: kwargs[name] for name in kwargs if name in self._by_call}
        rest = {name: kwargs[name] for name in kwargs if name not in self._by_call}
        return self._call(stop, overrides), rest

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that decides the answer except the prompt; LangChain's caches are keyed by it."""
        deciding = sorted(set(type(self).model_fields) - WITHOUT_INFLUENCE)
        settings = {name: getattr(self, name) for name in deciding}
        settings["budget"] = parse_budget(self.budget)  # 1 and 1.0 are the same
        plain = {name: plain_identity(value) for name, value in settings.items()}
        server = self._server
        if server is not None:
            return {**plain, "checkpoint": server.served.fingerprint}
        return {**plain, "checkpoint": answering_digest(self.model_name, self.device)}

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text by the decoder's own tokenizer, for counting."""
        return self._token_ids(text)

    def _metadata(
        self, report: Report, finish_reason: str | None, warnings: Sequence[str]
    ) -> dict[str, Any]:
        """What a complete answer says about itself."""
        refrag = report.preceded_by(warnings).to_dict()
        return {"model_name": self.model_name, "finish_reason": finish_reason, "refrag": refrag}


def told(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log probabilities, if there are any, as LangChain expects them among the metadata."""
    return {"logprobs": written_for_chat(logprobs)} if logprobs else {}
