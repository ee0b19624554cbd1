"""Many-shot classification: hundreds of examples as a context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from refrag_components.corpus.question_files import LABEL, Question
from refrag_components.evaluation.answers.contexts import Context, Setting
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.exceptions import EvaluationError
from refrag_components.prompts.parts import Message, PassagePart, TextPart

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["TASKS", "ExampleContext", "Task", "example_contexts", "labelled"]

Task = Literal["answer", "set", "kind"]

#: What is to be told of a question, in words.
TASKS: Mapping[Task, str] = {
    "answer": "yes or no, with the passages that answer it",
    "set": "which set it comes from",
    "kind": "what its answer is: yes or no, a number, a name, a phrase or a sentence",
}

_KINDS = {
    "yes/no": "boolean",
    "number": "number",
    "exact string": "name",
    "phrase": "phrase",
    "free text": "sentence",
}
_INSTRUCTION = "Label the user's text. Answer with one word: {}."
_FOLLOWS = " These are examples:\n\n"
_MOST_CHARACTERS = 600  # of a passage in an example


@dataclass(frozen=True)
class ExampleContext(Context):
    """A text to label after examples, each of them a passage.

    Attributes:
        labels: All labels.
    """

    labels: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        """All texts that an answer depends on, for a digest."""
        return (*super().identity, *self.labels)

    def messages(self, *, shown: bool = True) -> list[Message]:
        """The labels, the examples and the text."""
        instruction = _INSTRUCTION.format(", ".join(self.labels))
        parts: list[TextPart | PassagePart] = [TextPart(instruction + _FOLLOWS * shown)]
        for i, passage in enumerate(self.passages if shown else ()):
            parts += [TextPart("\n\n")] if i else []
            parts.append(PassagePart(passage))
        asked = Message("user", (TextPart(f"{self.question.text}\nLabel:"),))
        return [Message("system", tuple(parts)), asked]


def labelled(sets: Mapping[str, Sequence[Question]], task: Task) -> list[Question]:
    """Texts whose only right answer is their label.

    Args:
        sets: Questions of each set, by the set's name.
        task: What is to be told of each.
    """
    found = []
    for name, questions in sets.items():
        for question in questions:
            label = _label(name, question, task)
            if label is None:
                continue
            text = question.text
            if task == "answer":
                passage = " ".join(question.needed)[:_MOST_CHARACTERS]
                text = f"{passage}\n{question.text}"
            alone = replace(question, id=f"{name}-{question.id}", needed=(), others=())
            found.append(replace(alone, text=text, answers=(label,), kind=LABEL))
    return found


def example_contexts(
    model: RefragModel,
    asked: Sequence[Question],
    examples: Sequence[Question],
    counts: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[tuple[Setting, list[Context]]]:
    """The contexts for each number of examples, drawn for each question with all labels alike.

    Args:
        model: Ranks the examples by similarity to the text.
        asked: Texts to label, from ``labelled``.
        examples: Other texts, from ``labelled``.
        counts: Numbers of examples, at least 1 each.
        progress: Called with the number of examples ranked.

    Raises:
        EvaluationError: If there is nothing to label, or too few labels or examples.
    """
    labels = tuple(sorted({question.target for question in (*asked, *examples)}))
    if not asked or len(labels) < 2:
        msg = f"the questions have {len(labels)} labels; pass some that have two or more"
        raise EvaluationError(msg)
    by_label = {label: [e for e in examples if e.target == label] for label in labels}
    if max(counts) > len(examples):
        msg = f"{max(counts)} examples were asked for, but there are {len(examples)}"
        raise EvaluationError(msg)
    texts = {example.id: f"{example.text}\nLabel: {example.target}" for example in examples}
    pool = PassagePool(model, list(dict.fromkeys(texts.values())), progress=progress)
    vectors = pool.embed_questions([question.text for question in asked])
    made: list[tuple[Setting, list[Context]]] = []
    for count in counts:
        contexts: list[Context] = []
        for question, vector in zip(asked, vectors, strict=True):
            chosen = _draw(by_label, count, np.random.default_rng([question.seed, count]))
            passages = tuple(dict.fromkeys(texts[example.id] for example in chosen))
            order = np.argsort(-pool.similarity(vector, passages), kind="stable")
            similar = tuple(order.tolist())
            contexts.append(ExampleContext(question, passages, similar, labels))
        made.append((Setting("examples", count), contexts))
    return made


def _label(name: str, question: Question, task: Task) -> str | None:
    if task == "set":
        return name.split(".")[0].replace("_", "")
    if task == "kind":
        return _KINDS.get(question.kind)
    return question.target.lower() if question.kind == "yes/no" else None


def _draw(
    by_label: Mapping[str, Sequence[Question]], count: int, rng: np.random.Generator
) -> list[Question]:
    """Examples of all labels in turn, as far as there are any, in random order."""
    piles = [
        [examples[i] for i in rng.permutation(len(examples))] for examples in by_label.values()
    ]
    rng.shuffle(piles)
    chosen: list[Question] = []
    while len(chosen) < count:
        for pile in piles:
            if pile and len(chosen) < count:
                chosen.append(pile.pop())
    return [chosen[i] for i in rng.permutation(len(chosen))]
