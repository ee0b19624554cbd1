"""Every policy by name, and what each promises."""

from __future__ import annotations

from refrag_components.policies import POLICIES
from tests.policies.contract import PolicyContract


class TestAll(PolicyContract):
    name = "all"
    keeps_order, each_alone, depends_on_question, share = True, True, False, 1.0


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
    assert tuple(sorted(own.name for own in PolicyContract.__subclasses__())) == POLICIES
