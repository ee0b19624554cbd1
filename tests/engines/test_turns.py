"""Calls take turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from refrag_components.engines.turns import Turns


def rows(name: str, count: int) -> list[Any]:
    return [SimpleNamespace(name=f"{name}{i}", ended=False) for i in range(count)]


def names(taken: list[Any]) -> list[str]:
    return [row.name for row in taken]


def test_one_row_of_each_call_in_turn() -> None:
    turns = Turns()
    turns.add(rows("a", 4))
    turns.add(rows("b", 1))
    turns.add([])
    assert names(turns.take(1)) == ["a0"]
    turns.add(rows("c", 2))
    assert names(turns.take(4)) == ["b0", "a1", "c0", "a2"]
    assert names(turns.take(9)) == ["c1", "a3"]
    assert turns.take(9) == []


def test_who_has_withdrawn_takes_no_place() -> None:
    turns = Turns()
    waiting = rows("a", 3)
    turns.add(waiting)
    waiting[0].ended = waiting[1].ended = True
    assert names(turns.take(1)) == ["a2"]


def test_all_at_once() -> None:
    turns = Turns()
    turns.add(rows("a", 2))
    turns.add(rows("b", 1))
    assert sorted(names(turns.take_all())) == ["a0", "a1", "b0"]
    assert turns.take(1) == []
