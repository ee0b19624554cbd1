from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus.question_files import Question, load_questions
from refrag_components.evaluation.answers import comparison
from refrag_components.evaluation.answers.comparison import evaluate_questions
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.results import COLUMNS, Result
from refrag_components.evaluation.answers.summary import ALL_SETS, summarise
from refrag_components.evaluation.methods import COMPRESSED, FULL, NONE, Method, default_methods
from refrag_components.evaluation.reports.markdown import qa_markdown
from refrag_components.exceptions import EvaluationError, UnknownPolicyError
from refrag_components.modeling import RefragModel

METHODS = [NONE, FULL, COMPRESSED, Method("fewer"), Method("random", 0.5)]
SETTINGS = [Setting("given", 1), Setting("strong", 2)]


@pytest.fixture(scope="module")
def questions(question_file: Path) -> list[Question]:
    return load_questions(question_file)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call decoded."""
    counts: list[int] = []
    original = comparison.decode

    def counting(model, chunks, rows, **options):  # type: ignore[no-untyped-def]
        counts.append(len(rows))
        return original(model, chunks, rows, **options)

    monkeypatch.setattr(comparison, "decode", counting)
    return counts


def test_what_is_done_is_not_done_again(
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


def test_a_run_that_was_killed_goes_on(
    tiny_model: RefragModel,
    questions: list[Question],
    tmp_path: Path,
    answered: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Methods are written one by one where each fills its batches."""
    monkeypatch.setattr(comparison, "batch_positions", lambda _: 1)
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
    with pytest.raises(EvaluationError, match="another contexts; choose another output"):
        evaluate_questions(tiny_model, {"harbour": questions[1:]}, tmp_path, methods=METHODS)
    (path,) = tmp_path.rglob("none.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"run": content["run"] | {"fingerprint": "0"}}))
    with pytest.raises(EvaluationError, match="another fingerprint"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=METHODS)
    path.write_text(path.read_text()[:50])
    with pytest.raises(EvaluationError, match="is damaged"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=METHODS)
    assert len(answered) == 1


def test_a_policy_that_the_checkpoint_lacks_is_refused_first(
    tiny_model: RefragModel, questions: list[Question], tmp_path: Path, answered: list[int]
) -> None:
    methods = [*METHODS, Method("learned", 0.1)]
    with pytest.raises(UnknownPolicyError, match="carries no trained policy"):
        evaluate_questions(tiny_model, {"harbour": questions}, tmp_path, methods=methods)
    assert not answered


def test_nothing_to_do_is_refused(tiny_model: RefragModel, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least one set"):
        evaluate_questions(tiny_model, {}, tmp_path, methods=METHODS)


def result(name: str, method: Method, f1: list[float], kinds: list[str] | None = None) -> Result:
    values = np.asarray(f1)
    columns = dict.fromkeys(COLUMNS, values)
    columns |= {"log_ppl": 3 - values, "context_tokens": values * 0 + 40}
    columns["context_positions"] = values * 0 + {"none": 0, "full": 40}.get(method.way, 10)
    ids = [str(i) for i in range(len(f1))]
    return Result(name, Setting(), method, ids, kinds or ["number"] * len(f1), ids, columns)


def test_figures_of_two_sets() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(40) / 2
    kinds = ["number"] * 10 + ["yes/no"] * 30
    results = [
        *(result("a", m, list(base + s), kinds) for m, s in ((FULL, 0.5), (COMPRESSED, 0.25))),
        *(result("b", m, list(base[:8] * s)) for m, s in ((FULL, 2), (COMPRESSED, 1))),
    ]
    a, b, both = summarise(results)
    assert [table["set"] for table in (a, b, both)] == ["a", "b", ALL_SETS]
    assert (a["items"], b["items"], both["items"]) == (40, 8, 48)
    full, compressed = a["rows"]
    assert compressed["rate"] == 4.0
    assert compressed["f1"] == pytest.approx(base.mean() + 0.25)
    assert full["f1_of_full"] == 1.0
    assert full["f1_of_full_interval"] == (1.0, 1.0)
    low, high = compressed["f1_of_full_interval"]
    assert low < compressed["f1_of_full"] < high
    (pair,) = a["pairs"]
    assert pair["f1"] == pytest.approx(0.25)
    assert pair["f1_interval"] == (pytest.approx(0.25), pytest.approx(0.25))
    assert pair["f1_p"] < 0.001
    assert {kind["kind"]: kind["items"] for kind in a["kinds"]} == {"number": 10, "yes/no": 30}
    means = [table["rows"][1]["f1"] for table in (a, b)]
    assert both["rows"][1]["f1"] == pytest.approx(np.mean(means))
    text = qa_markdown([a, b, both], chunk_size=4)
    assert "## all sets: 48 questions, 5 passages" in text
    assert "| p=0 | " in text


def test_pairs_are_those_at_equal_positions_and_the_full_context() -> None:
    methods = default_methods(("random", "recent"), (0.1, 0.25))
    (table,) = summarise([result("a", method, [0.0, 1.0, 0.5]) for method in methods])
    pairs = {(pair["a"], pair["b"]) for pair in table["pairs"]}
    assert ("random-0.1", "recent-0.1") in pairs
    assert ("fewer-0.25", "random-0.25") in pairs
    assert ("compressed", "fewer-0") in pairs
    assert ("full", "random-0.1") in pairs
    assert not {("random-0.1", "random-0.25"), ("none", "compressed")} & pairs


def test_sets_with_different_methods_are_refused() -> None:
    with pytest.raises(EvaluationError, match="same methods"):
        summarise([result("a", FULL, [1.0]), result("b", NONE, [1.0])])


def test_no_right_answer_at_all_gives_no_share() -> None:
    (table,) = summarise([result("a", FULL, [0.0, 0.0]), result("a", COMPRESSED, [0.0, 0.0])])
    assert "f1_of_full" not in table["rows"][0]
    assert "| full context |" in qa_markdown([table], chunk_size=4)
