"""Questions on whole documents, whose answers are summaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.contexts import Context, Setting
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.results import Result
from refrag_components.evaluation.answers.rouge import rouge_columns
from refrag_components.exceptions import EvaluationError
from refrag_components.prompts.parts import Message, PassagePart, TextPart

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["StoryContext", "story_contexts", "with_rouge"]

_INSTRUCTION = "Use the following text to answer the user's question in one paragraph.\n\n"
_WITHOUT_TEXT = "Answer the user's question in one paragraph."


class StoryContext(Context):
    """A question over all passages of one or more documents, in their order."""

    def messages(self, *, shown: bool = True) -> list[Message]:
        """The documents and the question."""
        parts: list[TextPart | PassagePart] = [TextPart(_INSTRUCTION if shown else _WITHOUT_TEXT)]
        for i, passage in enumerate(self.passages if shown else ()):
            parts += [TextPart("\n\n")] if i else []
            parts.append(PassagePart(passage))
        asked = Message("user", (TextPart(self.question.text),))
        return [Message("system", tuple(parts)), asked]


def story_contexts(
    model: RefragModel,
    questions: Sequence[Question],
    documents: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[tuple[Setting, list[Context]]]:
    """The contexts for each number of documents: a question's own one among others of the set.

    Args:
        model: Ranks the passages by similarity to the question.
        questions: Questions with all passages of a document each.
        documents: Numbers of documents, at least 1 each.
        progress: Called with the number of passages ranked.

    Raises:
        EvaluationError: If a question has too few other documents to be among.
    """
    texts = [tuple(dict.fromkeys((*q.needed, *q.others))) for q in questions]
    distinct = list(dict.fromkeys(texts))
    pool = PassagePool(
        model, list(dict.fromkeys(t for texts_of in distinct for t in texts_of)), progress=progress
    )
    vectors = pool.embed_questions([question.text for question in questions])
    made: list[tuple[Setting, list[Context]]] = []
    for count in documents:
        contexts: list[Context] = []
        for question, parts, vector in zip(questions, texts, vectors, strict=True):
            rng = np.random.default_rng([question.seed, count])
            others = [other for other in distinct if not {*other} & {*parts}]
            if len(others) < count - 1:
                msg = f"{count} documents were asked for, these questions have {len(others) + 1}"
                raise EvaluationError(f"{msg}; take more questions")
            chosen = [others[i] for i in rng.permutation(len(others))[: count - 1]]
            chosen.insert(int(rng.integers(len(chosen) + 1)), parts)
            passages = tuple(dict.fromkeys(text for document in chosen for text in document))
            order = np.argsort(-pool.similarity(vector, passages), kind="stable")
            # Of its own document, however much its file says to answer.
            asked = replace(question, needed=parts, others=())
            contexts.append(StoryContext(asked, passages, tuple(order.tolist())))
        made.append((Setting("document", count), contexts))
    return made


def with_rouge(result: Result, questions: Sequence[Question]) -> Result:
    """The result with ROUGE of what was written.

    Args:
        result: A result on these questions.
        questions: Questions with at least one answer each.
    """
    answers = {question.id: question.answers for question in questions}
    columns = rouge_columns(result.predictions, [answers[name] for name in result.ids])
    return replace(result, columns={**result.columns, **columns})
