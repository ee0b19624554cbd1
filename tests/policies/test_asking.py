"""Any chat model replies, and numbers are read from what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from refrag_components.policies.asking import asking, numbers_in


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("3, 1", [3, 1]),
        ("[2] and [4], then [2]", [2, 4]),
        ("Part 4. It says so in 1907.", [4]),
        ("0", []),
        ("none", []),
        ("-1 1.5 2x v3 99999999", []),
        ("<think>1 or 2?</think>3", [3]),
        ("<think>1 or 2", []),
        ("1.\n2.", [1, 2]),
    ],
)
def test_numbers_of_parts(reply: str, numbers: list[int]) -> None:
    assert numbers_in(reply, 4) == numbers


def test_functions_and_models_of_llama_index() -> None:
    assert asking(str.upper)(["a", "b"]) == ["A", "B"]
    model = SimpleNamespace(complete=lambda prompt: SimpleNamespace(text=prompt * 2))
    assert asking(model)(["a", "b"]) == ["aa", "bb"]


def test_langchain_models_are_asked_together_and_outside_the_stream() -> None:
    asked: list[Any] = []

    def batch(prompts: list[str], config: dict[str, Any]) -> list[Any]:
        asked.append((prompts, config))
        return [
            "text",
            SimpleNamespace(content="message"),
            SimpleNamespace(content=["a ", {"type": "text", "text": "block"}, {"type": "other"}]),
        ]

    assert asking(SimpleNamespace(batch=batch))(["1", "2", "3"]) == ["text", "message", "a block"]
    ((prompts, config),) = asked
    assert prompts == ["1", "2", "3"]
    assert "nostream" in config["tags"]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(TypeError, match="str is not a chat model"):
        asking("gpt-4o-mini")
