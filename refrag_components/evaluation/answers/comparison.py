"""Answers to questions by every method, kept method by method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.contexts import Context, Setting, draw_contexts
from refrag_components.evaluation.answers.pool import PassagePool
from refrag_components.evaluation.answers.prompts import Prompts, build_prompts, build_row
from refrag_components.evaluation.answers.results import Result, read_result, write_result
from refrag_components.evaluation.answers.squad import score
from refrag_components.evaluation.decoding import Output, Row, batch_positions, decode
from refrag_components.evaluation.methods import Method
from refrag_components.evaluation.selections import chunk_scores
from refrag_components.exceptions import EvaluationError
from refrag_components.policies import POLICIES, make_policy
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["MAX_NEW_TOKENS", "Progress", "evaluate_questions"]

MAX_NEW_TOKENS = 32

#: Called with what is being done, how much of it was done just now, and how much there is.
Progress = Callable[[str, int, int], None]

_BATCHES_KEPT = 4  # methods are run together until they fill this many batches


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

    What the folder already holds is not computed again: a run that was stopped goes on.

    Args:
        model: The model, in evaluation mode.
        sets: Questions of each set by the set's name.
        folder: Where results are kept.
        methods: The methods; each once.
        settings: Where passages come from and how many there are.
        pool: Passages to retrieve from, beside those of all sets' questions.
        cache: Folder for the pool's search vectors; None for ``cache`` in the results' folder.
        progress: Called as work is done.

    Returns:
        One result for each set, setting and method.

    Raises:
        EvaluationError: If there is nothing to do, a context does not fit the decoder's window,
            or the folder holds results of something else.
        UnknownPolicyError: If a method's policy cannot be made.
    """
    if not (sets and methods and settings and all(sets.values())):
        msg = "there is nothing to evaluate; pass at least one set, one method and one setting"
        raise EvaluationError(msg)
    for way in {method.way for method in methods if method.way in POLICIES}:
        make_policy(way, model)  # a checkpoint may lack it
    report = progress or _silent
    target = Path(folder)
    searched = _pool(model, sets, pool, Path(cache) if cache else target / "cache", report)
    identity = {method: _identity(model, method) for method in methods}
    work = []
    for name, questions in sets.items():  # first: a mistake costs no decoding
        for setting in settings:
            contexts = draw_contexts(questions, setting, searched)
            drawn = {"contexts": _digest(contexts), "max_new_tokens": MAX_NEW_TOKENS}
            found = {
                method: read_result(target, name, setting, method, {**own, **drawn})
                for method, own in identity.items()
            }
            work.append((name, setting, contexts, drawn, found))
    results = []
    for name, setting, contexts, drawn, found in work:
        pending = [method for method, result in found.items() if result is None]
        for result in _run(model, name, setting, contexts, pending, report):
            write_result(target, result, {**identity[result.method], **drawn})
            found[result.method] = result
        results += [result for result in found.values() if result is not None]
    return results


def _run(
    model: RefragModel,
    name: str,
    setting: Setting,
    contexts: Sequence[Context],
    methods: Sequence[Method],
    report: Progress,
) -> Iterator[Result]:
    if not methods:
        return
    where, count = f"{name}, {setting.name}", len(contexts)
    prompts = build_prompts(
        model,
        contexts,
        max_new_tokens=MAX_NEW_TOKENS,
        progress=lambda n: report(f"{where}: prompts", n, count),
    )
    scores: dict[str, list[np.ndarray]] = {}
    inputs = [prompt.inputs for prompt in prompts.prompts]
    for way in dict.fromkeys(method.way for method in methods if method.is_selection):
        scores[way] = chunk_scores(
            way,
            model,
            inputs,
            lambda n, way=way: report(f"{where}: {way}", n, count),  # type: ignore[misc]
        )
    answers = f"{where}: answers"
    total = count * len(methods)
    for group in _groups(prompts, methods, scores, _BATCHES_KEPT * batch_positions(model)):
        outputs = iter(
            decode(
                model,
                prompts.chunks,
                [row for _, rows in group for row in rows],
                max_new_tokens=MAX_NEW_TOKENS,
                progress=lambda n: report(answers, n, total),
            )
        )
        for method, rows in group:
            own = [next(outputs) for _ in rows]
            yield _result(model, name, setting, method, contexts, prompts, rows, own)


def _groups(
    prompts: Prompts,
    methods: Sequence[Method],
    scores: Mapping[str, Sequence[np.ndarray]],
    positions: int,
) -> Iterator[list[tuple[Method, list[Row]]]]:
    """Methods with their rows, several together while they are small."""
    group: list[tuple[Method, list[Row]]] = []
    filled = 0
    for method in methods:
        own = scores.get(method.way, [None] * len(prompts.prompts))
        rows = [build_row(p, method, s) for p, s in zip(prompts.prompts, own, strict=True)]
        group.append((method, rows))
        filled += sum(len(row.token_ids) for row in rows)
        if filled >= positions:
            yield group
            group, filled = [], 0
    if group:
        yield group


def _result(
    model: RefragModel,
    name: str,
    setting: Setting,
    method: Method,
    contexts: Sequence[Context],
    prompts: Prompts,
    rows: Sequence[Row],
    outputs: Sequence[Output],
) -> Result:
    texts = content_tokenizer(model.tokenizer).decode_batch(
        [list(output.token_ids) for output in outputs], skip_special_tokens=True
    )
    predictions = [text.strip() for text in texts]
    questions = [context.question for context in contexts]
    marks = [
        score(prediction, question.answers, yes_no=question.kind == "yes/no")
        for prediction, question in zip(predictions, questions, strict=True)
    ]
    columns = {
        "em": [em for em, _ in marks],
        "f1": [f1 for _, f1 in marks],
        "log_ppl": [output.log_ppl for output in outputs],
        "positions": [len(row.token_ids) for row in rows],
        "context_positions": [row.context_positions for row in rows],
        "context_tokens": [prompt.context_tokens for prompt in prompts.prompts],
    }
    return Result(
        name,
        setting,
        method,
        [question.id for question in questions],
        [question.kind for question in questions],
        predictions,
        {key: np.asarray(values, dtype=np.float64) for key, values in columns.items()},
    )


def _pool(
    model: RefragModel,
    sets: Mapping[str, Sequence[Question]],
    texts: Sequence[str],
    cache: Path,
    report: Progress,
) -> PassagePool:
    own = [
        text for questions in sets.values() for q in questions for text in (*q.needed, *q.others)
    ]
    given = list(dict.fromkeys(texts))
    if not given:
        own = list(dict.fromkeys(own))
        return PassagePool(model, own, progress=lambda n: report("search vectors", n, len(own)))
    pool = PassagePool(
        model, given, cache=cache, progress=lambda n: report("search vectors", n, len(given))
    )
    pool.add(own)
    return pool


def _identity(model: RefragModel, method: Method) -> dict[str, Any]:
    """What tells one model from another, as far as it matters to a method.

    Decoder and encoder are left out of the digest, because merging an adapter rounds differently
    from machine to machine; the fingerprint stands for the encoder, and what trains the decoder
    trains the projector too. Of the learned policies only the method's own counts.
    """
    state = dict(model.projector.state_dict())
    if method.way in model.policies:
        state |= model.policies[method.way].state_dict()
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    known = method.way in POLICIES
    return {
        **({"revision": make_policy(method.way, model).revision} if known else {}),
        "fingerprint": model.fingerprint,
        "model": digest.hexdigest(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _digest(contexts: Sequence[Context]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for context in contexts:
        question = context.question
        row = (question.id, question.text, *question.answers, *context.passages)
        digest.update("\0".join(row).encode(errors="surrogatepass") + b"\1")
    return digest.hexdigest()


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody wants to see."""
