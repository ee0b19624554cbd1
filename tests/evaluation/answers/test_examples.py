from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.examples import example_contexts, labelled
from refrag_components.exceptions import EvaluationError
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart
from tests.tiny import TEXT

Ask = Callable[..., Question]


def test_texts_are_labelled_by_what_is_to_be_told(ask: Ask) -> None:
    closed = ask(1, text="Is it old?", answers=("Yes",), kind="yes/no")
    sets = {"squad.valid": [ask(0)], "boolq.valid": [closed]}
    assert [q.target for q in labelled(sets, "set")] == ["squad", "boolq"]
    assert [q.target for q in labelled(sets, "kind")] == ["number", "boolean"]
    (answer,) = labelled(sets, "answer")
    assert answer.target == "yes"
    assert answer.text == f"{TEXT[0]}\nIs it old?"  # which cannot be told without the passage


def test_labels_are_alike_as_far_as_there_are_any(tiny_model: RefragModel, ask: Ask) -> None:
    sets = {name: [ask(i, text=f"{name} {i}?") for i in range(n)] for name, n in
            (("a", 20), ("b", 20), ("c", 2))}  # fmt: skip
    examples = labelled(sets, "set")
    asked = labelled({"a": [ask(50, text="What is a?")], "b": [ask(51, text="What is b?")]}, "set")
    made = example_contexts(tiny_model, asked, examples, [6, 20])
    assert made == example_contexts(tiny_model, asked, examples, [6, 20])
    (few, (first, second)), (many, (third, _)) = made
    assert (few.name, many.name) == ("examples-6", "examples-20")
    assert first.passages != second.passages  # each question draws its own

    def labels(passages: tuple[str, ...]) -> Counter[str]:
        return Counter(text.rpartition("Label: ")[2] for text in passages)

    assert labels(first.passages) == {"a": 2, "b": 2, "c": 2}
    assert labels(third.passages) == {"a": 9, "b": 9, "c": 2}
    system, user = first.messages()
    shown = [part.text for part in system.parts if isinstance(part, PassagePart)]
    assert tuple(shown) == first.passages
    assert "a, b, c" in system.parts[0].text  # type: ignore[union-attr]
    assert user.parts[0].text == "What is a?\nLabel:"  # type: ignore[union-attr]
    bare, _ = first.messages(shown=False)
    assert len(bare.parts) == 1


def test_too_few_examples_or_labels_are_refused(tiny_model: RefragModel, ask: Ask) -> None:
    examples = labelled({"a": [ask(0)], "b": [ask(1)]}, "set")
    with pytest.raises(EvaluationError, match="there are 2"):
        example_contexts(tiny_model, examples, examples, [3])
    with pytest.raises(EvaluationError, match="have 1 labels"):
        example_contexts(tiny_model, examples[:1], examples[:1], [1])
