"""Texts of similar length go together, at the least cost."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from refrag_components.corpus import grouping
from refrag_components.corpus.grouping import group_by_length

LENGTHS = st.lists(st.integers(0, 3000), min_size=1, max_size=9)


def cost(groups: list[tuple[int, list[int]]]) -> int:
    return sum(length * len(places) + grouping._PASS for length, places in groups)


@settings(max_examples=60)
@given(lengths=LENGTHS, unit=st.sampled_from([1, 8, 32]))
@example(lengths=[0], unit=8)
@example(lengths=[0, 0], unit=32)
def test_every_text_is_in_one_group_that_is_long_enough(lengths: list[int], unit: int) -> None:
    groups = group_by_length(lengths, unit)
    assert sorted(i for _, places in groups for i in places) == list(range(len(lengths)))
    for length, places in groups:
        longest = max(lengths[i] for i in places)
        assert length == max(-(-longest // unit), 1) * unit
        assert len(places) >= 2 or len(lengths) == 1
    assert [length for length, _ in groups] == sorted(length for length, _ in groups)


@settings(max_examples=60)
@given(lengths=LENGTHS)
def test_no_other_groups_cost_less(lengths: list[int]) -> None:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    possible = []
    for cuts in itertools.product((False, True), repeat=len(lengths) - 1):
        groups: list[tuple[int, list[int]]] = [(0, [])]
        for i, cut in zip(order, (False, *cuts), strict=True):
            if cut:
                groups.append((0, []))
            groups[-1] = (max(lengths[i], 1), [*groups[-1][1], i])
        if all(len(places) > 1 for _, places in groups) or len(lengths) == 1:
            possible.append(cost(groups))
    assert cost(group_by_length(lengths, 1)) == min(possible)


def test_few_texts_more_are_no_reason_for_another_pass() -> None:
    assert [places for _, places in group_by_length([500, 30, 40], 8)] == [[1, 2, 0]]
    many = group_by_length([40] * 300 + [500] * 300, 8)
    assert [(length, len(places)) for length, places in many] == [(40, 300), (504, 300)]


def test_no_texts_have_no_groups() -> None:
    assert group_by_length([], 8) == []
