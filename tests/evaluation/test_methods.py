from __future__ import annotations

import pytest

from refrag_components.evaluation.methods import (
    COMPRESSED,
    FRACTIONS,
    FULL,
    NONE,
    Method,
    default_methods,
)
from refrag_components.evaluation.selections import SELECTIONS
from refrag_components.exceptions import EvaluationError, UnknownPolicyError
from refrag_components.policies import POLICIES


def test_all_rows_are_there_once() -> None:
    methods = default_methods()
    assert len({method.name for method in methods}) == len(methods)
    assert methods[:3] == [NONE, FULL, COMPRESSED]
    for p in FRACTIONS:
        ways = {method.way for method in methods if method.fraction == p}
        assert ways == {"last", "fewer", *SELECTIONS}
    assert Method("last") in methods
    assert Method("fewer") in methods


def test_running_text_has_no_passages_to_leave_out() -> None:
    assert not any(m.way == "fewer" for m in default_methods(fewer_passages=False))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_a_row(name: str) -> None:
    assert Method(name, 0.25).name == f"{name}-0.25" or Method(name, 0.25).is_fixed


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(UnknownPolicyError, match="choose one of"):
        Method("clairvoyance", 0.1)
    with pytest.raises(EvaluationError, match=r"0\.\.1"):
        Method("random", 1.5)
