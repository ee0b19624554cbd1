from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.stories import story_contexts
from refrag_components.exceptions import EvaluationError
from refrag_components.modeling import RefragModel


def test_a_document_stays_whole_and_in_order_among_others(
    tiny_model: RefragModel, ask: Callable[..., Question]
) -> None:
    stories = [tuple(f"Story {j}, part {i}." for i in range(4)) for j in range(5)]
    questions = [ask(j, needed=story[:1], others=story[1:]) for j, story in enumerate(stories)]
    questions.append(ask(9, text="And then?", needed=stories[0], others=()))
    (one, alone), (three, among) = story_contexts(tiny_model, questions, [1, 3])
    assert (one.name, three.name) == ("document-1", "document-3")
    assert [context.passages for context in alone] == [*stories, stories[0]]
    for context, story in zip(among, [*stories, stories[0]], strict=True):
        assert len({*context.passages}) == 12
        at = [context.passages.index(part) for part in story]
        assert all(b == a + 1 for a, b in pairwise(at))
        assert context.question.needed == story  # all of it is what "gold" reads
        assert sorted(context.similar) == list(range(12))


def test_fewer_documents_than_asked_for_are_refused(
    tiny_model: RefragModel, ask: Callable[..., Question]
) -> None:
    questions = [ask(j, needed=(f"Story {j}.",), others=()) for j in range(2)]
    with pytest.raises(EvaluationError, match=r"3 documents were asked for, .* have 2"):
        story_contexts(tiny_model, questions, [1, 3])
