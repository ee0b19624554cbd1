"""Settings of an answer as the integrations take them, with a model and with a single call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Protocol

from refrag_components.engines.sampling import SamplingParams
from refrag_components.policies import check_policy
from refrag_components.policies.budget import Budget, parse_budget
from refrag_components.weights.lookup import checkpoint_folder

__all__ = ["AnswerSettings", "check_settings", "sampling_params", "warn_of_unknown"]


class AnswerSettings(Protocol):
    """What an integration's settings have under the same names.

    Attributes:
        policy: Which chunks expand into tokens: one of ``refrag_components.policies.POLICIES``, or
            "auto".
        budget: How much may expand, as for ``parse_budget``.
        max_tokens: Most tokens to generate.
        temperature: 0 takes the likeliest token each time.
        top_p: Below 1 only the likeliest tokens that reach this mass are drawn from.
        stop: Strings that end the answer.
        seed: Same seed, same answer.
    """

    policy: str
    budget: float | Budget
    max_tokens: int
    temperature: float
    top_p: float
    stop: list[str] | None
    seed: int | None


def check_settings(model: str, settings: AnswerSettings) -> None:
    """Refuses settings that no call could work with, before a model is loaded.

    Args:
        model: Checkpoint: a bundled name, a folder or a hub id.
        settings: Of that model or of a single call.

    Raises:
        BudgetError: If the budget is neither a fraction nor a number of positions.
        SamplingError: If a sampling parameter is outside its range.
        UnknownModelError: If there is no such checkpoint.
        UnknownPolicyError: If no policy has that name.
    """
    checkpoint_folder(model)
    check_policy(settings.policy)
    parse_budget(settings.budget)
    sampling_params(settings)


def sampling_params(settings: AnswerSettings) -> SamplingParams:
    """How the tokens of an answer are drawn.

    Raises:
        SamplingError: If a sampling parameter is outside its range.
    """
    return SamplingParams(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=settings.stop or (),
        seed=settings.seed,
    )


def warn_of_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Warns of arguments that a model's constructor ignores.

    Settings of remote models (timeout, api_key) must not stop a swap, typos must show.

    Args:
        owner: The model's class, whose constructor calls this.
        given: Names of the arguments.
        known: Names that it has settings for.
    """
    if unknown := sorted(set(given) - set(known)):
        warnings.warn(f"{owner} ignores {', '.join(unknown)}", stacklevel=3)
