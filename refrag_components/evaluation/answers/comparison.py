"""Answers to questions over passages by every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.answering import (
    Progress,
    answer_contexts,
    check_methods,
    silent,
)
from refrag_components.evaluation.answers.contexts import Setting, draw_contexts
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.results import Result
from refrag_components.evaluation.methods import Method
from refrag_components.exceptions import EvaluationError

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["evaluate_questions"]


def evaluate_questions(
    model: RefragModel,
    sets: Mapping[str, Sequence[Question]],
    folder: str | Path,
    *,
    methods: Sequence[Method],
    settings: Sequence[Setting] = (Setting(),),
    pool: Sequence[str] = (),
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Answers every question by every method in every setting.

    Results that the folder already contains are not computed again: a run that was stopped is
    continued.

    Args:
        model: The model, in evaluation mode.
        sets: Questions of each set, by the set's name.
        folder: Folder for the results.
        methods: The methods, each once.
        settings: Where passages come from and how many there are.
        pool: Passages to retrieve from, in addition to those of all sets' questions. Without any,
            each set is searched separately, so its contexts do not depend on the other sets.
        cache: Folder for the pool's search vectors; None for ``cache`` in the results folder.
        progress: Called as work is done.

    Returns:
        One result for each set, setting and method.

    Raises:
        EvaluationError: If there is nothing to do, a context does not fit the decoder's window,
            or the folder contains results of another model or other contexts.
        UnknownPolicyError: If a method's policy cannot be made.
    """
    if not (sets and methods and settings and all(sets.values())):
        msg = "there is nothing to evaluate; pass at least one set, one method and one setting"
        raise EvaluationError(msg)
    check_methods(model, methods)
    report = progress or silent
    target = Path(folder)
    searched = _pools(model, sets, pool, Path(cache) if cache else target / "cache", report)
    asked = [
        (name, setting, contexts)
        for name, questions in sets.items()
        for setting, contexts in zip(
            settings, draw_contexts(questions, settings, searched[name]), strict=True
        )
    ]
    return answer_contexts(model, asked, folder, methods=methods, progress=report)


def _pools(
    model: RefragModel,
    sets: Mapping[str, Sequence[Question]],
    texts: Sequence[str],
    cache: Path,
    report: Progress,
) -> dict[str, PassagePool]:
    """The pool of each set: the given passages and those of all sets, else the set's passages."""
    of_set = {
        name: list(dict.fromkeys(text for q in questions for text in (*q.needed, *q.others)))
        for name, questions in sets.items()
    }
    given = list(dict.fromkeys(texts))
    total = len(given) or sum(len(passages) for passages in of_set.values())

    def embedded(n: int) -> None:
        report("search vectors", n, total)

    if not given:
        return {
            name: PassagePool(model, passages, progress=embedded)
            for name, passages in of_set.items()
        }
    pool = PassagePool(model, given, cache=cache, progress=embedded)
    pool.add([text for passages in of_set.values() for text in passages])
    return dict.fromkeys(sets, pool)
