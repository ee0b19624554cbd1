"""Names to policies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from refrag_components.exceptions import UnknownPolicyError, shown
from refrag_components.policies.base import Policy
from refrag_components.policies.named.late_interaction import LateInteractionPolicy
from refrag_components.policies.named.learned_query import LearnedQueryPolicy
from refrag_components.policies.names import DEFAULT_POLICY, POLICIES, module_of

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["check_policy", "make_policy", "policy_class"]


def check_policy(policy: str | Policy) -> None:
    """Refuses what is not a policy, without the model that a policy would need.

    Raises:
        UnknownPolicyError: If no policy has that name, or it is neither a name nor a policy.
    """
    known = (DEFAULT_POLICY, *POLICIES)
    if not isinstance(policy, Policy) and not (isinstance(policy, str) and policy in known):
        msg = f"unknown policy {shown(policy)}; choose one of {', '.join(known)}, or pass a Policy"
        raise UnknownPolicyError(msg)


def policy_class(name: str) -> type[Policy]:
    """The class of the policy of that name, one of ``POLICIES``."""
    (found,) = (
        value
        for value in vars(import_module(module_of(name))).values()
        if isinstance(value, type) and issubclass(value, Policy) and vars(value).get("name") == name
    )
    return found


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
    return policy_class(policy).made_for(model)
