from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refrag_components.corpus.question_files import load_questions, set_name
from refrag_components.exceptions import EvaluationError


def record(**changes: Any) -> dict[str, Any]:
    passages = [{"id": "p1", "text": "Dug in 1907."}, {"id": "p2", "text": "It rained."}]
    base = {"id": "q1", "question": "When?", "answers": ["in 1907", "1907"], "gold": ["p1"]}
    return {**base, "passages": passages, "type": "extractive", **changes}


def write(folder: Path, *records: Any) -> Path:
    path = folder / "harbour.valid.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in records))
    return path


def test_a_question_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, record())
    (question,) = load_questions(path)
    assert (question.needed, question.others) == (("Dug in 1907.",), ("It rained.",))
    assert question.target == "1907"
    assert question.standalone
    assert (question.needed_ids, question.titles) == (("p1",), ("",))
    assert set_name(path) == set_name("x/harbour.valid.jsonl.zst") == "harbour.valid"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "number"),
        ({"answers": ["Stephen Kemble of the North"]}, "exact string"),
        ({"answers": ["sys.path"]}, "exact string"),
        ({"answers": ["a wooden mole"]}, "phrase"),
        ({"answers": ["no"], "type": "yesno"}, "yes/no"),
        ({"answers": ["1907"], "type": "abstractive"}, "free text"),
        ({"answers": [], "gold": []}, "unanswerable"),
    ],
)
def test_answers_have_kinds(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    (question,) = load_questions(write(tmp_path, record(**changes)))
    assert question.kind == kind


def test_an_unanswerable_question_keeps_the_passage_it_was_asked_about(tmp_path: Path) -> None:
    meta = {"unanswerable": True, "related": ["p2"], "standalone": False}
    (question,) = load_questions(write(tmp_path, record(answers=[], gold=[], meta=meta)))
    assert question.needed == ("It rained.",)
    assert not question.standalone


def test_what_questions_share_is_read_beside_the_text(tmp_path: Path) -> None:
    texts = ("Dug in 1907.", "It rained.", "Dug in 1907.", " ")
    passages = [
        {"id": f"p{i}", "title": f"Harbour {i}", "text": text} for i, text in enumerate(texts)
    ]
    (question,) = load_questions(
        write(tmp_path, record(passages=passages, gold=["p2", "p1", "p0", "p3"]))
    )
    assert question.needed == ("Dug in 1907.", "It rained.")
    assert question.needed_ids == ("p0", "p1")
    assert question.titles == ("Harbour 0", "Harbour 1")


def test_items_are_spread_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, *(record(id=str(i)) for i in range(9)))
    assert [question.id for question in load_questions(path, items=3)] == ["0", "4", "8"]
    assert len(load_questions(path, items=None)) == len(load_questions(path)) == 9


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no questions"),
        ([record(), {"question": "x"}], "line 2"),
        ([record(), record()], "uses an id twice"),
        ([record(question=" ")], "is empty"),
        (["text"], "line 1"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        load_questions(write(tmp_path, *records))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot read questions"):
        load_questions(tmp_path / "nowhere.jsonl")
