"""Instructions are improved by what the decoder makes of them."""

from __future__ import annotations

import re
import sys

import pytest

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.contexts import Context
from refrag_components.exceptions import MissingExtraError
from refrag_components.modeling import RefragModel
from refrag_components.policies import NaturalLanguagePolicy
from refrag_components.training.instructions import Improved, improve_instruction
from tests.tiny import TEXT

BETTER = "Name the numbers of parts with the answer."


def context(number: int) -> Context:
    passage = TEXT[number % len(TEXT)]
    answer = passage.split()[-1]
    question = Question(
        str(number), f"What is said at the end of {number}?", (answer,), "phrase", (passage,), ()
    )
    return Context(question, tuple(TEXT), tuple(range(len(TEXT))))


CONTEXTS = [context(number) for number in range(4)]


class Models:
    """A model that obeys ``BETTER`` alone, and one that always proposes it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reflections: list[str] = []

    def policy(self, prompt: str) -> str:
        self.asked.append(prompt)
        if BETTER not in prompt:
            return "I do not know."
        numbers = re.findall(r"^\[(\d+)\]", prompt, flags=re.MULTILINE)
        return ", ".join(numbers[::-1])

    def reflect(self, prompt: str) -> str:
        self.reflections.append(prompt)
        return f"This is better:\n```\n{BETTER}\n```"


def improved(model: RefragModel, models: Models, **options: int) -> Improved:
    policy = NaturalLanguagePolicy(models.policy, stretch=8)
    return improve_instruction(
        policy,
        model,
        CONTEXTS,
        reflect=models.reflect,
        fraction=0.3,
        **options,  # type: ignore[arg-type]
    )


def test_the_best_instruction_that_was_tried_is_found(tiny_model: RefragModel) -> None:
    models = Models()
    found = improved(tiny_model, models, calls=40)
    first = NaturalLanguagePolicy(models.policy).instruction
    assert found.instruction in (first, BETTER)
    assert (found.instruction == BETTER) == (found.score > found.before)
    assert 0 < found.before <= found.score < 1
    assert any(BETTER in prompt for prompt in models.asked)
    assert len(models.asked) <= 40 + 4  # gepa ends with the batch that exceeds it


def test_the_model_that_reflects_sees_what_happened(tiny_model: RefragModel) -> None:
    models = Models()
    improved(tiny_model, models, calls=12)
    prompt = models.reflections[0]
    assert NaturalLanguagePolicy(models.policy).instruction in prompt
    asked = [each for each in CONTEXTS if each.question.text in prompt]
    assert asked
    for each in asked:
        assert f"The right answer is {each.question.answers[0]!r}" in prompt
    assert "no number of a part" in prompt
    assert "[1] " in prompt
    assert "probability of 0.0" in prompt
    assert "stands word for word in" in prompt


def test_mistakes_are_named(tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least 4 calls, got 3"):
        improved(tiny_model, Models(), calls=3)
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(MissingExtraError, match=r"refrag-components\[gepa\]"):
        improved(tiny_model, Models(), calls=40)
