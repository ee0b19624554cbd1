from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus.question_files import Question, load_questions
from refrag_components.evaluation.answers import answering
from refrag_components.evaluation.answers.comparison import evaluate_questions
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    Drop,
    FewerPassages,
    Keep,
    SameText,
)
from refrag_components.exceptions import EvaluationError, UnknownPolicyError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT

METHODS = [NONE, FULL, COMPRESSED, FewerPassages(), Keep("random", 0.5)]
SETTINGS = [Setting("given", 1), Setting("strong", 2)]


@pytest.fixture(scope="module")
def questions(question_file: Path) -> list[Question]:
    return load_questions(question_file)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call decoded."""
    counts: list[int] = []
    original = answering.decode

    def counting(model, chunks, rows, **options):  # type: ignore[no-untyped-def]
        counts.append(len(rows))
        return original(model, chunks, rows, **options)

    monkeypatch.setattr(answering, "decode", counting)
    return counts


def test_saved_results_are_not_computed_again(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path, answered: list[int]
) -> None:
    sets = {"harbour": questions}
    first = evaluate_questions(tiny_model, sets, tmp_path, methods=METHODS[:2], settings=SETTINGS)
    assert sum(answered) == 2 * 2 * len(questions)
    seen: list[tuple[str, int, int]] = []
    every = evaluate_questions(
        tiny_model,
        sets,
        tmp_path,
        methods=METHODS,
        settings=SETTINGS,
        progress=lambda *step: seen.append(step),
    )
    assert sum(answered) == 5 * 2 * len(questions)
    assert {(r.setting, r.method) for r in every} == {(s, m) for s in SETTINGS for m in METHODS}
    answers = [step for step in seen if step[0] == "harbour, given-1: answers"]
    assert sum(done for _, done, _ in answers) == answers[0][2] == 3 * len(questions)
    for result in first:
        (again,) = (r for r in every if (r.setting, r.method) == (result.setting, result.method))
        assert list(again.predictions) == list(result.predictions)
        np.testing.assert_allclose(again.columns["log_ppl"], result.columns["log_ppl"], atol=1e-5)


def test_a_run_that_was_killed_is_continued(
    tiny_model: RefragModel,
    questions: list[Question],
    tmp_path: Path,
    answered: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Methods are written one by one where each fills its batches."""
    monkeypatch.setattr(answering, "batch_positions", lambda _: 1)
    sets = {"harbour": questions}

    def stop(what: str, done: int, total: int) -> None:
        if what.endswith("answers") and len(answered) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_questions(tiny_model, sets, tmp_path, methods=METHODS, progress=stop)
    assert len(list(tmp_path.rglob("*.json"))) == 2
    answered.clear()
    evaluate_questions(tiny_model, sets, tmp_path, methods=METHODS)
    assert len(answered) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_results_of_something_else_are_refused(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path, answered: list[int]
) -> None:
    evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=METHODS[:1])
    with pytest.raises(EvaluationError, match="another value of: contexts; choose another output"):
        evaluate_questions(tiny_model, {"harbour": questions[1:]}, tmp_path, methods=METHODS)
    (path,) = tmp_path.rglob("none.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"run": content["run"] | {"fingerprint": "0"}}))
    with pytest.raises(EvaluationError, match="another value of: fingerprint"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=METHODS)
    path.write_text(path.read_text()[:50])
    with pytest.raises(EvaluationError, match="is damaged"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=METHODS)
    assert len(answered) == 1


def test_a_policy_that_the_checkpoint_lacks_is_refused_first(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path, answered: list[int]
) -> None:
    methods = [*METHODS, Keep("learned", 0.1)]
    with pytest.raises(UnknownPolicyError, match="carries no trained policy"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=methods)
    assert not answered


def test_nothing_to_do_is_refused(tiny_model: RefragModel, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least one set"):
        evaluate_questions(tiny_model, {}, tmp_path, methods=METHODS)


def test_every_passage_and_every_search_is_done_once(
    tiny_model: RefragModel,
    questions: list[Question],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For all sets, numbers of passages, methods and budgets."""
    encoded: list[str] = []
    embedded: list[str] = []
    encode, embed = tiny_model.encode_passages, tiny_model.search_vectors

    def encoding(texts, **options):  # type: ignore[no-untyped-def]
        encoded.extend(texts)
        return encode(texts, **options)

    def embedding(texts, **options):  # type: ignore[no-untyped-def]
        embedded.extend(texts)
        return embed(texts, **options)

    monkeypatch.setattr(tiny_model, "encode_passages", encoding)
    monkeypatch.setattr(tiny_model, "search_vectors", embedding)
    methods = [FULL, *(kind("recent", p) for p in (0.1, 0.5) for kind in (Keep, Drop, SameText))]
    settings = [Setting("given", 2), *(Setting("strong", n) for n in (1, 2, 4))]
    sets = {"a": questions[:3], "b": questions[3:]}
    pool = [f"Ship {i} lies in the harbour." for i in range(8)]
    results = evaluate_questions(
        tiny_model, sets, tmp_path, methods=methods, settings=settings, pool=pool
    )
    assert len(results) == len(methods) * len(settings) * len(sets)
    assert len(encoded) == len({*encoded}) > 0
    assert len(embedded) == len({*embedded}) >= len(pool) + len(questions)


def test_contexts_of_a_set_do_not_depend_on_the_other_sets(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path
) -> None:
    """Otherwise a figure would depend on what else is measured with it."""
    others = [
        replace(q, needed=(f"{q.needed[0]} Twice.",), others=(f"{TEXT[i]} Again.",))
        for i, q in enumerate(questions[:5])
    ]
    runs = []
    for name, sets in (("alone", {"a": questions}), ("together", {"b": others, "a": questions})):
        settings = [Setting("given", 4), Setting("strong", 2)]
        evaluate_questions(tiny_model, sets, tmp_path / name, methods=[NONE], settings=settings)
        paths = sorted((tmp_path / name / "results" / "a").rglob("none.json"))
        runs.append([json.loads(path.read_text())["run"]["contexts"] for path in paths])
    assert len(runs[0]) == 2
    assert runs[0] == runs[1]


def test_results_carry_what_their_intervals_need(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path
) -> None:
    evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=[FULL, NONE])
    (path,) = tmp_path.rglob("full.json")
    content = json.loads(path.read_text())
    assert content["passages"] == [["p0"]] * len(questions)
    assert content["titles"] == [["The harbour"]] * len(questions)
    assert content["kind"][-1] == "unanswerable"
    assert content["f1"][-1] is content["em"][-1] is None  # no mean may hold it
    assert content["f1"][0] is not None
    assert content["shown"] == [1, 1, 1, 1, 0, 0]
    assert content["cut"] == [0] * len(questions)
    (again, bare) = evaluate_questions(
        tiny_model, {"harbour": questions}, tmp_path, methods=[FULL, NONE]
    )
    assert np.isnan(again.columns["f1"]).tolist() == [False] * 5 + [True]
    assert bare.columns["shown"].tolist() == [0] * len(questions)
    assert again.clusters("passage").tolist() == [0] * len(questions)
