from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.corpus.conversations import UNANSWERABLE
from refrag_components.evaluation.answers.squad import (
    exact_match,
    is_refusal,
    normalise,
    occurs_in,
    score,
    token_f1,
)

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


def test_a_question_without_an_answer_has_no_f1() -> None:
    """It would not belong in the mean of the others."""
    assert np.isnan(score(UNANSWERABLE, [])).all()
    assert np.isnan(score("1907", [])).all()
    assert score(UNANSWERABLE, ["1907"])[0] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        UNANSWERABLE,
        "the context does not say",
        "The context doesn't mention the harbour.",
        "The provided passages do not contain this information.",
        "Unanswerable",
        "unknown.",
        "It is unknown who dug it.",
        "I don't know.",
        "I cannot answer that.",
        "Sorry, I do not know.",
        "Not in the context.",
        "It is not mentioned in the text.",
        "Not stated",
        "The answer is not given.",
        "This cannot be determined from the passages.",
        "No answer.",
        "There is no information about it.",
        "None",
    ],
)
def test_a_refusal_is_a_refusal_in_any_words(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1907",
        "No",
        "No, it was not.",
        "nobody",
        "The unknown soldier",
        "None of the three ships",
        "Not until 1907",
        "In 1907; by whom is not stated.",
        "The context says 1907.",
        "I know it: 1907.",
        "text",
    ],
)
def test_an_answer_is_not_a_refusal(text: str) -> None:
    assert not is_refusal(text)


@given(WORDS, WORDS, WORDS)
def test_an_answer_occurs_where_its_words_do(
    before: list[str], answer: list[str], after: list[str]
) -> None:
    text = " ".join([*before, *answer, *after])
    wanted = bool(normalise(" ".join(answer)))
    assert occurs_in([" ".join(answer).upper() + "."], ["", text]) == wanted
    assert not occurs_in(["whale"], [text])


def test_an_answer_is_looked_for_word_by_word_in_one_text_at_a_time() -> None:
    assert occurs_in(["in 1907", "the old-town"], ["North of Old-Town."])
    assert not occurs_in(["190"], ["in 1907"])
    assert not occurs_in(["dug in 1907"], ["it was dug", "in 1907"])
    assert not occurs_in(["the"], ["the harbour"])
    assert not occurs_in([], ["the harbour"])


def test_yes_and_no_are_the_first_word() -> None:
    assert score("No, it was not.", ["no"], by_word=True) == (1.0, 1.0)
    assert score("Yes", ["no"], by_word=True) == (0.0, 0.0)
    assert score("It is not. No.", ["no"], by_word=True) == (0.0, 0.0)
    assert score("", ["no"], by_word=True) == (0.0, 0.0)
    assert score("Maybe.", ["maybe"], by_word=True) == (1.0, 1.0)
    assert score("Maybe.", ["no"], by_word=True) == (0.0, 0.0)
