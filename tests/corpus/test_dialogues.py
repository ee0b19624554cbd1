from __future__ import annotations

import pytest

from refrag_components.corpus.dialogues import build_conversations, in_conversation
from refrag_components.corpus.question_files import Question

TESLA = "Nikola Tesla was born in 1856. He moved to Paris, and later he worked in New York."
COIL = "The Tesla coil was shown in 1891."


def asked(number: int, text: str, needed: str = TESLA, title: str = "Nikola Tesla") -> Question:
    return Question(
        f"q{number}", text, (f"answer {number}",), "phrase", (needed,), (),
        needed_ids=(needed[:9],), titles=(title,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        ("When was Nikola Tesla born?", "Where did Tesla work?", "Where did he work?"),
        ("When was Nikola Tesla born?", "What was Tesla's first job?", "What was his first job?"),
        ("When was he born?", "Who paid for Tesla?", "Who paid for him?"),
        ("Where did he live in 1882?", "Where did he live in 1900?", "And in 1900?"),
        ("When did the war begin?", "When did the siege end?", "When did the siege end?"),
        # A part of a longer name stays.
        ("When was Nikola Tesla born?", "Who made the Tesla coil?", "Who made the Tesla coil?"),
    ],
)
def test_later_questions_are_asked_as_in_a_conversation(
    before: str, text: str, expected: str
) -> None:
    assert in_conversation(asked(1, text), [asked(0, before)]) == expected


def test_a_first_question_stays_as_it_is() -> None:
    assert in_conversation(asked(0, "When was Tesla born?"), []) == "When was Tesla born?"


def test_conversations_have_three_to_eight_turns_on_one_article() -> None:
    questions = [asked(i, f"What is thing {i}?", (TESLA, COIL)[i % 2]) for i in range(40)]
    questions += [asked(50 + i, f"Who is {i}?", f"Text {i}.", f"Title {i}") for i in range(5)]
    made = build_conversations(questions)
    assert made == build_conversations(questions)
    assert all(3 <= len(turns) <= 8 for turns in made)
    ids = [turn.id for turns in made for turn in turns]
    assert len(ids) == len({*ids}) > 30
    assert all(turn.titles == ("Nikola Tesla",) for turns in made for turn in turns)


def test_a_turn_shows_a_passage_once_and_the_history_has_it_from_then_on() -> None:
    questions = [asked(i, f"What is thing {i}?", (TESLA, COIL)[i // 2]) for i in range(4)]
    ((first, second, third, *_),) = build_conversations(questions, passages=1)
    assert first.now == (TESLA,)
    assert first.history == ()
    assert second.now == ()
    assert second.history[0].question == first.text
    assert second.history[0].answer == "answer 0"
    assert second.history[0].passages == (TESLA,)
    assert third.now == (COIL,)
    assert [turn.passages for turn in third.history] == [(TESLA,), ()]
