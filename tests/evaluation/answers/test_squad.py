from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.corpus.conversations import UNANSWERABLE
from refrag_components.evaluation.answers.squad import exact_match, normalise, score, token_f1

WORDS = st.lists(st.sampled_from(["the", "a", "Harbour", "1907", "old-town", "x"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Harbour.", "harbour"),
        ("a man, an owl & the sea", "man owl sea"),
        ("1,234.5 km", "12345 km"),
        ("Athens", "athens"),  # "a" is dropped as a word only
        ("\told-town\n", "oldtown"),
        ("the", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_f1_counts_shared_words() -> None:
    assert token_f1("in 1907 or 1908", "1907") == pytest.approx(0.4)
    assert token_f1("york new york", "new york city") == pytest.approx(2 / 3)
    assert token_f1("the", "a") == 1.0
    assert token_f1("", "1907") == 0.0


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_for_a_match(left: list[str], right: list[str]) -> None:
    a, b = " ".join(left), " ".join(right)
    assert token_f1(a, b) == token_f1(b, a)
    assert 0 <= token_f1(a, b) <= 1
    assert exact_match(a, b) <= token_f1(a, b)


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert not set(once) & set(string.punctuation)


def test_the_best_answer_counts() -> None:
    assert score("In 1907.", ["long ago", "1907"]) == (0.0, pytest.approx(2 / 3))
    assert score("1907", ["long ago", "in 1907", "1907."]) == (1.0, 1.0)


def test_an_unanswerable_question_wants_the_sentence_for_it() -> None:
    assert score(UNANSWERABLE, []) == (1.0, 1.0)
    assert score("the context does not say", []) == (1.0, 1.0)
    assert score("1907", []) == (0.0, 0.0)
    assert score(UNANSWERABLE, ["1907"])[0] == 0.0


def test_yes_and_no_are_the_first_word() -> None:
    assert score("No, it was not.", ["no"], yes_no=True) == (1.0, 1.0)
    assert score("Yes", ["no"], yes_no=True) == (0.0, 0.0)
    assert score("It is not. No.", ["no"], yes_no=True) == (0.0, 0.0)
    assert score("", ["no"], yes_no=True) == (0.0, 0.0)
