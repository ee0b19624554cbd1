"""Names to policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from refrag_components.exceptions import UnknownPolicyError, shown
from refrag_components.policies.all import AllPolicy
from refrag_components.policies.base import Policy
from refrag_components.policies.late_interaction import LateInteractionPolicy
from refrag_components.policies.learned import LearnedPolicy, LearnedQueryPolicy
from refrag_components.policies.names import DEFAULT_POLICY, POLICIES
from refrag_components.policies.none import NonePolicy
from refrag_components.policies.perplexity import PerplexityPolicy
from refrag_components.policies.random import RandomPolicy
from refrag_components.policies.similarity import SimilarityPolicy

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.policy_network import PolicyNetwork

__all__ = ["check_policy", "make_policy"]

_MAKERS: Mapping[str, Callable[[RefragModel], Policy]] = {
    AllPolicy.name: lambda _: AllPolicy(),
    LateInteractionPolicy.name: lambda model: LateInteractionPolicy(model.device),
    LearnedPolicy.name: lambda model: LearnedPolicy(_network(model, LearnedPolicy.name)),
    LearnedQueryPolicy.name: lambda model: LearnedQueryPolicy(
        _network(model, LearnedQueryPolicy.name)
    ),
    NonePolicy.name: lambda _: NonePolicy(),
    PerplexityPolicy.name: PerplexityPolicy,
    RandomPolicy.name: lambda _: RandomPolicy(),
    SimilarityPolicy.name: lambda _: SimilarityPolicy(),
}


def check_policy(policy: str | Policy) -> None:
    """Refuses what is not a policy, without the model that a policy would need.

    Raises:
        UnknownPolicyError: If no policy has that name, or it is neither a name nor a policy.
    """
    known = (DEFAULT_POLICY, *POLICIES)
    if not isinstance(policy, Policy) and not (isinstance(policy, str) and policy in known):
        msg = f"unknown policy {shown(policy)}; choose one of {', '.join(known)}, or pass a Policy"
        raise UnknownPolicyError(msg)


def make_policy(policy: str | Policy, model: RefragModel) -> Policy:
    """Returns the policy of that name; a policy object is returned as ``Policy.of`` the model.

    Args:
        policy: ``DEFAULT_POLICY``, one of ``POLICIES``, or a policy.
        model: Carries the networks of learned policies; its decoder reads the passages for
            ``perplexity``.

    Raises:
        UnknownPolicyError: If no policy has that name, or the checkpoint does not carry it.
    """
    if isinstance(policy, Policy):
        return policy.of(model)
    check_policy(policy)
    if policy == DEFAULT_POLICY:
        trained = LearnedQueryPolicy.name in model.policies
        policy = LearnedQueryPolicy.name if trained else LateInteractionPolicy.name
    return _MAKERS[policy](model)


def _network(model: RefragModel, name: str) -> PolicyNetwork:
    if name not in model.policies:
        msg = (
            f"this checkpoint carries no trained policy {name!r}; train one with "
            "`refrag train run --stage policy`, or choose another, such as 'late-interaction'"
        )
        raise UnknownPolicyError(msg)
    network: Any = model.policies[name]
    return network
