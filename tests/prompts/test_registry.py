"""The registry finds exactly the passages that were registered."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.prompts.registry import PassageRegistry, default_registry

LAKE = "The lake of Zug lies between the cantons of Zug, Schwyz and Lucerne."
LONGER = LAKE + " It covers thirty-eight square kilometres."
MOUNTAIN = "The Rigi rises above the southern shore of the lake and has a railway."


class Store:
    """Stands for a chunk store; the registry only hands it back."""


@pytest.fixture
def registry() -> PassageRegistry:
    return PassageRegistry()


def found(registry: PassageRegistry, text: str) -> list[str]:
    return [text[start:end] for start, end in registry.find(text)]


def test_finds_passages_in_text_order(registry: PassageRegistry) -> None:
    registry.register(LAKE)
    registry.register(MOUNTAIN)
    assert found(registry, f"Context: {MOUNTAIN}\n\n{LAKE} Question?") == [MOUNTAIN, LAKE]


def test_finds_a_passage_twice_and_side_by_side(registry: PassageRegistry) -> None:
    registry.register(LAKE)
    assert found(registry, LAKE + LAKE) == [LAKE, LAKE]


def test_longest_passage_wins(registry: PassageRegistry) -> None:
    registry.register(LAKE)
    registry.register(LONGER)
    assert found(registry, f"a {LONGER} b {LAKE} c") == [LONGER, LAKE]


def test_same_beginning_other_ending_is_not_found(registry: PassageRegistry) -> None:
    registry.register(LAKE)
    assert found(registry, LAKE.replace("Lucerne", "Bern")) == []


def test_whitespace_around_a_passage_does_not_matter(registry: PassageRegistry) -> None:
    registry.register(f"\n  {LAKE}\t\n")
    assert found(registry, f"Context:{LAKE}") == [LAKE]
    assert len(registry) == 1


def test_short_passages_are_ignored(registry: PassageRegistry) -> None:
    registry.register("x" * 31)
    registry.register("   ")
    assert len(registry) == 0
    registry.register("x" * 32)
    assert found(registry, "x" * 40) == ["x" * 32]


def test_store_comes_back_and_can_be_replaced(registry: PassageRegistry) -> None:
    first, second = Store(), Store()
    registry.register(LAKE, first)  # type: ignore[arg-type]
    assert registry.store_of(f" {LAKE}\n") is first
    registry.register(LAKE, second)  # type: ignore[arg-type]
    assert registry.store_of(LAKE) is second
    assert registry.store_of(MOUNTAIN) is None


def test_oldest_registration_is_forgotten_first() -> None:
    registry = PassageRegistry(max_passages=2)
    registry.register(LAKE)
    registry.register(MOUNTAIN)
    registry.register(LAKE)
    registry.register(LONGER)
    assert found(registry, f"{LAKE} | {MOUNTAIN} | {LONGER}") == [LAKE, LONGER]
    assert len(registry) == 2


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_passages"):
        PassageRegistry(max_passages=0)


def test_default_registry_is_one_object() -> None:
    assert default_registry() is default_registry()


def test_many_passages_with_the_same_beginning(registry: PassageRegistry) -> None:
    header = "Employee handbook, internal use only. Section "
    passages = [f"{header}{i}: paragraph number {i}." for i in range(2000)]
    for passage in passages:
        registry.register(passage)
    prompt = "\n".join(passages[500:520])
    assert found(registry, prompt) == passages[500:520]


def test_threads_may_register_and_find_at_once() -> None:
    registry = PassageRegistry(max_passages=50)
    passages = [f"{i:04d} {LAKE}" for i in range(200)]

    def work(passage: str) -> bool:
        registry.register(passage)
        return all(match in passages for match in found(registry, f"{passage} {passages[0]}"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, passages * 5))
    finally:
        sys.setswitchinterval(interval)
    assert len(registry) == 50


@given(
    st.lists(st.text("ab \n", min_size=30, max_size=70), max_size=6),
    st.text("ab \n", max_size=400),
)
def test_matches_are_registered_ordered_and_apart(passages: list[str], text: str) -> None:
    registry = PassageRegistry()
    for passage in passages:
        registry.register(passage)
    text = text + "".join(passages)
    matches = registry.find(text)
    known = {passage.strip() for passage in passages}
    assert all(text[start:end] in known for start, end in matches)
    borders = [border for match in matches for border in match]
    assert borders == sorted(borders)
