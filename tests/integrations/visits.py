"""What users do, drawn for the tests of both frameworks that nobody's answer depends on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

__all__ = ["Visit", "visits"]


@dataclass(frozen=True)
class Visit:
    """What one user does once.

    Attributes:
        way: How.
        found: Which passages the user's retriever returns.
        question: Which question is asked.
        said: Which passage was said before, or is pasted.
    """

    way: str
    found: tuple[int, ...]
    question: int
    said: int


def visits(ways: Sequence[str], questions: int) -> st.SearchStrategy[Visit]:
    """Visits in any of these ways, with one of so many questions and four passages."""
    return st.builds(
        Visit,
        way=st.sampled_from(ways),
        found=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple),
        question=st.integers(0, questions - 1),
        said=st.integers(0, 3),
    )
