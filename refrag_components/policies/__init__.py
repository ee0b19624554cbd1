"""Policies: which chunks enter the decoder as tokens.

Imported when first used, because torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components._lazy import hand_on

if TYPE_CHECKING:
    from refrag_components.policies.base import Policy, PolicyInputs
    from refrag_components.policies.budget import (
        DEFAULT_REST,
        Budget,
        FractionBudget,
        Milliseconds,
        PositionBudget,
        Rest,
        parse_budget,
        parse_rest,
    )
    from refrag_components.policies.comparing import ComparisonPolicy
    from refrag_components.policies.in_words import NaturalLanguagePolicy
    from refrag_components.policies.making import check_policy, make_policy
    from refrag_components.policies.named.all import AllPolicy
    from refrag_components.policies.named.late_interaction import LateInteractionPolicy
    from refrag_components.policies.named.learned import LearnedPolicy
    from refrag_components.policies.named.learned_query import LearnedQueryPolicy
    from refrag_components.policies.named.none import NonePolicy
    from refrag_components.policies.named.perplexity import PerplexityPolicy
    from refrag_components.policies.named.random import RandomPolicy
    from refrag_components.policies.named.similarity import SimilarityPolicy
    from refrag_components.policies.names import DEFAULT_POLICY, POLICIES
    from refrag_components.policies.selecting import select

__all__ = [
    "DEFAULT_POLICY",
    "DEFAULT_REST",
    "POLICIES",
    "AllPolicy",
    "Budget",
    "ComparisonPolicy",
    "FractionBudget",
    "LateInteractionPolicy",
    "LearnedPolicy",
    "LearnedQueryPolicy",
    "Milliseconds",
    "NaturalLanguagePolicy",
    "NonePolicy",
    "PerplexityPolicy",
    "Policy",
    "PolicyInputs",
    "PositionBudget",
    "RandomPolicy",
    "Rest",
    "SimilarityPolicy",
    "check_policy",
    "make_policy",
    "parse_budget",
    "parse_rest",
    "select",
]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "AllPolicy": "named.all",
        "Budget": "budget",
        "check_policy": "making",
        "ComparisonPolicy": "comparing",
        "DEFAULT_POLICY": "names",
        "DEFAULT_REST": "budget",
        "FractionBudget": "budget",
        "LateInteractionPolicy": "named.late_interaction",
        "LearnedPolicy": "named.learned",
        "LearnedQueryPolicy": "named.learned_query",
        "make_policy": "making",
        "Milliseconds": "budget",
        "NaturalLanguagePolicy": "in_words",
        "NonePolicy": "named.none",
        "parse_budget": "budget",
        "parse_rest": "budget",
        "PerplexityPolicy": "named.perplexity",
        "POLICIES": "names",
        "Policy": "base",
        "PolicyInputs": "base",
        "PositionBudget": "budget",
        "RandomPolicy": "named.random",
        "Rest": "budget",
        "select": "selecting",
        "SimilarityPolicy": "named.similarity",
    },
)
