"""A search always finds something; whether it has to do with the question is told apart."""

from __future__ import annotations

import pytest

from refrag_components.index.matching import found_nothing, match
from refrag_components.index.types import Hit

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
QUESTION = "When was the harbour dug?"


def hit(text: str, score: float) -> Hit:
    return Hit(text, "a.txt", score, "key", {})


def test_the_best_passage_counts_by_meaning_and_another_may_by_words() -> None:
    far, near = hit("Rain fell.", 0.2), hit("Digging of ports", 0.4)
    assert match(QUESTION, [near, far]) == pytest.approx(0.4)
    assert match(QUESTION, [near, hit("WHEN WAS THE HARBOUR DUG", 0.1)]) == pytest.approx(0.9)
    assert match(QUESTION, [hit("the harbour", 0.1)]) == pytest.approx(0.1 + 0.5 * 8 / 15)


def test_long_words_count_more() -> None:
    assert match(QUESTION, [hit("harbour", 0)]) > match(QUESTION, [hit("when was", 0)])


def test_without_words_the_meaning_decides() -> None:
    assert match("?!", [hit("Rain fell.", 0.3)]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("text", "score", "nothing"),
    [
        ("Rain fell on the mountain.", 0.15, True),
        ("Rain fell on the mountain.", 0.7, False),
        ("The harbour was dug in 1907.", 0.3, False),
    ],
)
def test_nothing_was_found_if_neither_meaning_nor_words_fit(
    text: str, score: float, nothing: bool
) -> None:
    assert found_nothing(QUESTION, [hit(text, score)], ENCODER) is nothing


def test_an_encoder_that_was_not_measured_is_believed() -> None:
    assert not found_nothing(QUESTION, [hit("Rain fell.", -0.9)], "somebody/another")


def test_no_passage_is_nothing() -> None:
    assert found_nothing(QUESTION, [], ENCODER) and found_nothing(QUESTION, [], "somebody/another")
