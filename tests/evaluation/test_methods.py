from __future__ import annotations

import pytest

from refrag_components.evaluation.methods import (
    COMPRESSED,
    FRACTIONS,
    FULL,
    GOLD,
    METHODS,
    NONE,
    AllCompressed,
    Drop,
    FewerPassages,
    FirstTokens,
    Keep,
    Ladder,
    LadderText,
    LastTokens,
    Latest,
    SameText,
    default_methods,
)
from refrag_components.evaluation.selections import SELECTIONS
from refrag_components.exceptions import EvaluationError, UnknownPolicyError
from refrag_components.policies import POLICIES


def test_all_rows_are_there_once() -> None:
    methods = default_methods()
    assert len({method.name for method in methods}) == len(methods)
    assert methods[:4] == [NONE, FULL, GOLD, COMPRESSED]
    for p in FRACTIONS:
        at_p = [method for method in methods if method.fraction == p]
        assert {m.kind for m in at_p} == {"last", "first", "fewer", "keep", "drop", "text"}
        for kind in (Keep, Drop, SameText):
            assert {m.selection for m in at_p if isinstance(m, kind)} == {*SELECTIONS}
    at_0 = [method for method in methods if method.fraction == 0]
    plain = [LastTokens(), FirstTokens(), FewerPassages()]
    assert at_0 == [*plain, *(SameText(name, 0.0) for name in SELECTIONS)]


def test_a_ladder_adds_rows_for_its_rungs_and_numbers_of_positions() -> None:
    methods = default_methods(("random",), (0.1,), positions=(50,), rungs=(16, 32))
    assert [m for m in methods if m.rung] == [
        AllCompressed(16),
        AllCompressed(32),
        Keep("random", 0.1, 16),
        Keep("random", 0.1, 32),
        *(SameText("random", p, rung) for rung in (16, 32) for p in (0.0, 0.1)),
    ]
    filled = [Ladder("random", 50), LadderText("random", 50), Latest(50)]
    assert [m for m in methods if m.positions] == filled
    assert Keep("random", 0.1, 16).name == "random-0.1-rung-16"
    assert SameText("random", 0.1, 16).name == "random-0.1-text-rung-16"
    assert Ladder("random", 50).label == "50 positions, random"
    with pytest.raises(EvaluationError, match="at least 2, got 1"):
        default_methods(positions=(1,))
    with pytest.raises(UnknownPolicyError, match="choose one of"):
        Ladder("clairvoyance", 50)


def test_rows_are_told_apart_by_name_and_by_label() -> None:
    methods = default_methods(rungs=(16, 32))
    for names in ([m.name for m in methods], [m.label for m in methods]):
        assert len({*names}) == len(names)


def test_every_kind_says_what_is_read_and_can_be_chosen() -> None:
    for method in METHODS:
        assert method.reads
        chosen = default_methods(("random",), (0.1,), kinds=[method.kind])
        assert chosen
        assert all(type(row) is method for row in chosen)
    known = ", ".join(method.kind for method in METHODS)
    with pytest.raises(EvaluationError, match=f"choose from {known}"):
        default_methods(kinds=["psychic"])


def test_running_text_has_no_passages_to_leave_out() -> None:
    kinds = {method.kind for method in default_methods(running_text=True)}
    assert kinds == {"none", "full", "compressed", "last", "keep"}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_a_row(name: str) -> None:
    assert Keep(name, 0.25).name == f"{name}-0.25"
    assert Drop(name, 0.25).name == f"{name}-0.25-drop"
    assert SameText(name, 0.25).name == f"{name}-0.25-text"


@pytest.mark.parametrize("kind", [Keep, Drop, SameText])
def test_wrong_rows_are_refused(kind: type[Keep | Drop | SameText]) -> None:
    with pytest.raises(UnknownPolicyError, match="choose one of"):
        kind("clairvoyance", 0.1)
    with pytest.raises(EvaluationError, match="from 0 to 1"):
        kind("random", 1.5)
    with pytest.raises(EvaluationError, match="from 0 to 1"):
        FewerPassages(-0.1)
