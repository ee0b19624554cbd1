"""Every policy by name, and what each promises."""

from __future__ import annotations

import re

from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    POLICIES,
    ComparisonPolicy,
    NaturalLanguagePolicy,
    Policy,
    make_policy,
)
from tests.policies.contract import PolicyContract


def shortest_first(prompt: str) -> str:
    """A model that names all parts whose numbers it reads, shorter ones first."""
    parts = re.findall(r"^\[(\d+)\] (.*)$", prompt, flags=re.MULTILINE)
    return ", ".join(number for number, _ in sorted(parts, key=lambda part: len(part[1])))


class TestAll(PolicyContract):
    name = "all"
    keeps_order, each_alone, depends_on_question, share = True, True, False, 1.0


class TestComparison(PolicyContract):
    """The order of passages decides between equals; the question, what is compared at first."""

    name = "comparison"
    keeps_order, each_alone, depends_on_question = False, False, True

    def made(self, model: RefragModel) -> Policy:
        return make_policy(ComparisonPolicy(shortest_first, comparisons=3), model)


class TestLateInteraction(PolicyContract):
    """How rare a word is depends on the other passages, but not on their order."""

    name = "late-interaction"
    keeps_order, each_alone, depends_on_question = True, False, True


class TestLearned(PolicyContract):
    """Its network sees where a passage stands."""

    name = "learned"
    keeps_order, each_alone, depends_on_question = False, False, False


class TestLearnedQuery(PolicyContract):
    name = "learned-query"
    keeps_order, each_alone, depends_on_question = False, False, True


class TestNaturalLanguage(PolicyContract):
    """The order of passages decides between equals."""

    name = "natural-language"
    keeps_order, each_alone, depends_on_question = False, False, True

    def made(self, model: RefragModel) -> Policy:
        return make_policy(NaturalLanguagePolicy(shortest_first, at_once=3), model)


class TestNone(PolicyContract):
    name = "none"
    keeps_order, each_alone, depends_on_question, share = True, True, False, 0.0


class TestPerplexity(PolicyContract):
    name = "perplexity"
    keeps_order, each_alone, depends_on_question = True, True, False


class TestRandom(PolicyContract):
    """Drawn again for each request."""

    name = "random"
    keeps_order, each_alone, depends_on_question = False, False, True


class TestSimilarity(PolicyContract):
    name = "similarity"
    keeps_order, each_alone, depends_on_question = True, True, True


def test_every_policy_is_under_contract() -> None:
    given_a_model = ("comparison", "natural-language")
    under_contract = sorted(own.name for own in PolicyContract.__subclasses__())
    assert under_contract == sorted([*POLICIES, *given_a_model])
