"""Answers over given contexts by every method; results are saved method by method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.corpus.question_files import LABEL, Question
from refrag_components.evaluation.answers.contexts import Context, Setting
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.prompts import PromptBuilder, Prompts
from refrag_components.evaluation.answers.results import Result, read_result, write_result
from refrag_components.evaluation.answers.squad import is_refusal, occurs_in, score
from refrag_components.evaluation.decoding import Output, batch_positions, decode
from refrag_components.evaluation.methods import Method
from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import chunk_scores
from refrag_components.exceptions import EvaluationError
from refrag_components.policies import POLICIES, make_policy
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["MAX_NEW_TOKENS", "Progress", "answer_contexts", "check_methods", "silent"]

MAX_NEW_TOKENS = 32

#: Called with the name of a task, the number of steps done since the last call, and the total.
Progress = Callable[[str, int, int], None]

_BATCHES_TOGETHER = 4  # methods are run together until they fill this many batches


def silent(what: str, done: int, total: int) -> None:
    """Progress that is not reported."""


def check_methods(model: RefragModel, methods: Sequence[Method]) -> None:
    """Refuses methods whose policies the checkpoint lacks.

    Raises:
        EvaluationError: If there is no method.
        UnknownPolicyError: If a method's policy cannot be made.
    """
    if not methods:
        raise EvaluationError("there is nothing to evaluate; pass at least one method")
    for name in {method.selection for method in methods} & {*POLICIES}:
        make_policy(str(name), model)  # fails if the checkpoint lacks it


def answer_contexts(
    model: RefragModel,
    asked: Sequence[tuple[str, Setting, Sequence[Context]]],
    folder: str | Path,
    *,
    methods: Sequence[Method],
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress | None = None,
) -> list[Result]:
    """Answers every context by every method.

    Results that the folder already contains are not computed again: a run that was stopped is
    continued.

    Args:
        model: The model, in evaluation mode.
        asked: Name of a set, what its contexts are, and the contexts.
        folder: Folder for the results.
        methods: The methods, each once.
        max_new_tokens: Longest answer in tokens.
        progress: Called as work is done.

    Returns:
        One result for each set, setting and method.

    Raises:
        EvaluationError: If there is no method, a context does not fit the decoder's window, or the
            folder contains results of another model or other contexts.
        UnknownPolicyError: If a method's policy cannot be made.
    """
    check_methods(model, methods)
    target = Path(folder)
    by_selection = {name: _identity(model, name) for name in {m.selection for m in methods}}
    identity = {method: by_selection[method.selection] for method in methods}
    work = []
    for name, setting, contexts in asked:  # first, so that a mistake costs no decoding
        drawn = {"contexts": _digest(contexts), "max_new_tokens": max_new_tokens}
        found = {
            method: read_result(target, name, setting, method, {**of_method, **drawn})
            for method, of_method in identity.items()
        }
        work.append((name, setting, contexts, drawn, found))
    answering = _Answering(model, max_new_tokens, progress or silent)
    results = []
    for name, setting, contexts, drawn, found in work:
        pending = [method for method, result in found.items() if result is None]
        for result in answering.run(name, setting, contexts, pending) if pending else ():
            write_result(target, result, {**identity[result.method], **drawn})
            found[result.method] = result
        results += [result for result in found.values() if result is not None]
    return results


class _Answering:
    """Answers contexts; holds what all of them share."""

    def __init__(self, model: RefragModel, max_new_tokens: int, report: Progress) -> None:
        self._model, self._report, self._max_new_tokens = model, report, max_new_tokens
        self._passages = EncodedPassages(model)
        self._builder = PromptBuilder(self._passages, max_new_tokens=max_new_tokens)
        self._tokenizer = content_tokenizer(model.tokenizer)

    def run(
        self,
        name: str,
        setting: Setting,
        contexts: Sequence[Context],
        methods: Sequence[Method],
    ) -> Iterator[Result]:
        """Answers by every method, in the methods' order."""
        where, count = f"{name}, {setting.name}", len(contexts)
        prompts = self._prompts(where, contexts, methods)
        answers = f"{where}: answers"
        total = count * len(methods)
        positions = _BATCHES_TOGETHER * batch_positions(self._model)
        for group in _groups(prompts.prompts, methods, positions):
            outputs = iter(
                decode(
                    self._model,
                    prompts.chunks,
                    [row for _, rows in group for row in rows],
                    max_new_tokens=self._max_new_tokens,
                    progress=lambda n: self._report(answers, n, total),
                )
            )
            for method, rows in group:
                of_method = [next(outputs) for _ in rows]
                columns, predictions = self._columns(contexts, prompts.prompts, rows, of_method)
                questions = [context.question for context in contexts]
                yield Result(
                    name,
                    setting,
                    method,
                    [question.id for question in questions],
                    [question.kind for question in questions],
                    [question.needed_ids for question in questions],
                    [question.titles for question in questions],
                    predictions,
                    columns,
                )

    def _prompts(
        self, where: str, contexts: Sequence[Context], methods: Sequence[Method]
    ) -> Prompts:
        """Lays out all contexts and scores their chunks with every selection that is used."""
        report, count = self._report, len(contexts)
        texts = list(dict.fromkeys(text for context in contexts for text in context.passages))
        self._passages.add(texts, lambda n: report(f"{where}: chunk vectors", n, len(texts)))
        built = self._builder.build(
            contexts, progress=lambda n: report(f"{where}: prompts", n, count)
        )
        inputs = [prompt.inputs for prompt in built.prompts]
        selections = dict.fromkeys(method.selection for method in methods if method.selection)
        scores = {
            selection: chunk_scores(
                selection,
                self._model,
                inputs,
                lambda n, name=selection: report(f"{where}: {name}", n, count),  # type: ignore[misc]
            )
            for selection in selections
        }
        scored = [
            replace(prompt, scores={name: rows[i] for name, rows in scores.items()})
            for i, prompt in enumerate(built.prompts)
        ]
        return replace(built, prompts=scored)

    def _columns(
        self,
        contexts: Sequence[Context],
        prompts: Sequence[Prompt],
        rows: Sequence[Row],
        outputs: Sequence[Output],
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """The columns that are saved for every question, and what the model wrote."""
        texts = self._tokenizer.decode_batch(
            [list(output.token_ids) for output in outputs], skip_special_tokens=True
        )
        predictions = [text.strip() for text in texts]
        questions = [context.question for context in contexts]
        marks = [
            score(prediction, question.answers, by_word=question.kind in ("yes/no", LABEL))
            for prediction, question in zip(predictions, questions, strict=True)
        ]
        columns: dict[str, Sequence[float]] = {
            "em": [em for em, _ in marks],
            "f1": [f1 for _, f1 in marks],
            "refused": [is_refusal(prediction) for prediction in predictions],
            "log_ppl": [output.log_ppl for output in outputs],
            "shown": self._shown(questions, rows),
            "positions": [len(row.token_ids) for row in rows],
            "context_positions": [row.context_positions for row in rows],
            "context_tokens": [prompt.context_tokens for prompt in prompts],
            "cut": [row.cut for row in rows],
        }
        arrays = {key: np.asarray(values, dtype=np.float64) for key, values in columns.items()}
        return arrays, predictions

    def _shown(self, questions: Sequence[Question], rows: Sequence[Row]) -> list[bool]:
        """Whether an answer occurs in the text that each row reads of its context."""
        spans = [row.text_spans for row in rows]
        texts = iter(
            self._tokenizer.decode_batch(
                [span.tolist() for row_spans in spans for span in row_spans],
                skip_special_tokens=False,
            )
        )
        return [
            occurs_in(question.answers, [next(texts) for _ in row_spans])
            for question, row_spans in zip(questions, spans, strict=True)
        ]


def _groups(
    prompts: Sequence[Prompt], methods: Sequence[Method], positions: int
) -> Iterator[list[tuple[Method, list[Row]]]]:
    """Methods with their rows, as many together as fit ``positions``."""
    group: list[tuple[Method, list[Row]]] = []
    filled = 0
    for method in methods:
        rows = [method.row(prompt) for prompt in prompts]
        group.append((method, rows))
        filled += sum(len(row.token_ids) for row in rows)
        if filled >= positions:
            yield group
            group, filled = [], 0
    if group:
        yield group


def _identity(model: RefragModel, selection: str | None) -> dict[str, Any]:
    """Identifies the model, as far as it matters to a method with this selection.

    Decoder and encoder are left out of the digest, because merging an adapter rounds differently
    from machine to machine; the fingerprint identifies the encoder, and whatever trains the decoder
    trains the projector too. Of the learned policies only that of the selection counts.
    """
    state = dict(model.projector.state_dict())
    if selection is not None and selection in model.policies:
        state |= model.policies[selection].state_dict()
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    known = selection in POLICIES
    return {
        **({"revision": make_policy(str(selection), model).revision} if known else {}),
        "fingerprint": model.fingerprint,
        "model": digest.hexdigest(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _digest(contexts: Sequence[Context]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for context in contexts:
        digest.update("\0".join(context.identity).encode(errors="surrogatepass") + b"\1")
    return digest.hexdigest()
