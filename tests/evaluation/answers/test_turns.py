from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus.question_files import Question
from refrag_components.evaluation.answers.answering import answer_contexts
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.parts import ALL_PARTS, summarise_parts
from refrag_components.evaluation.answers.prompts import PromptBuilder
from refrag_components.evaluation.answers.turns import (
    TurnContext,
    by_turn,
    load_turns,
    where_shown,
)
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    Ladder,
    LastTokens,
    Latest,
)
from refrag_components.exceptions import EvaluationError
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart
from tests.tiny import TEXT

METHODS = [NONE, FULL, COMPRESSED, LastTokens(), Ladder("recent", 16), Latest(16)]


def record(number: int, **others: object) -> dict[str, object]:
    shown = number // 2
    return {
        "id": f"q{number}",
        "question": f"When was thing {number} dug?",
        "answers": ["1907"],
        "passages": [{"id": f"p{shown}", "title": "The harbour", "text": TEXT[shown]}],
        "gold": [f"p{shown}"],
        **others,
    }


@pytest.fixture
def made(tmp_path: Path) -> list[Question]:
    path = tmp_path / "harbour.jsonl"
    path.write_text("".join(json.dumps(record(i)) + "\n" for i in range(8)))
    return load_turns(path, conversations=None, passages=1)


def test_conversations_are_made_of_questions_on_one_article(made: list[Question]) -> None:
    assert [len(turn.history) for turn in made[:3]] == [0, 1, 2]


def test_conversations_in_a_file_stay_as_they_are(tmp_path: Path) -> None:
    first = {"question": "Where does it lie?", "answer": "north", "passages": ["p0"]}
    later = {"question": "And in winter?", "answer": ""}
    lines = [record(0, history=[first]), record(2, history=[first, later])]
    lines[1]["passages"] = [{"id": f"p{i}", "text": TEXT[i]} for i in range(2)]
    path = tmp_path / "human.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, two = load_turns(path, conversations=None, passages=2)
    assert one.text == "When was thing 0 dug?"
    assert one.history[0].passages == (TEXT[0],)
    assert one.now == ()
    assert two.now == (TEXT[1],)
    assert two.history[1].answer == "The context does not say."
    assert load_turns(path, conversations=1, passages=2) == [one, two]  # they are one conversation
    path.write_text(json.dumps(record(0, history=[{"question": " ", "answer": "x"}])))
    with pytest.raises(EvaluationError, match="line 1"):
        load_turns(path, conversations=None, passages=2)


def test_questions_that_make_no_conversation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(record(i)) + "\n" for i in range(2)))
    with pytest.raises(EvaluationError, match="no three questions"):
        load_turns(path, conversations=None, passages=2)


def test_the_history_is_compressed_and_the_last_turn_is_text(
    tiny_model: RefragModel, made: list[Question]
) -> None:
    context = TurnContext.of(made[2])
    parts = [part for message in context.messages() for part in message.parts]
    assert [p.text for p in parts if isinstance(p, PassagePart)] == list(context.passages)
    built = PromptBuilder(EncodedPassages(tiny_model), max_new_tokens=4).build([context])
    (prompt,) = built.prompts
    newest_last = np.arange(len(prompt.lengths), dtype=np.float32)
    prompt = replace(prompt, scores={"recent": newest_last})
    rows = {method: method.row(prompt) for method in METHODS}

    def text(method: object) -> str:
        row = rows[method]  # type: ignore[index]
        return str(tiny_model.tokenizer.decode(row.token_ids[row.chunk_index < 0]))

    for method in METHODS:
        assert made[2].text in text(method)
        assert made[2].now[0] in text(method)
    assert made[0].text in text(FULL)
    assert made[0].text not in text(COMPRESSED)
    assert made[0].text not in text(NONE)
    assert "1907" not in text(NONE).replace(TEXT[0], "")
    assert rows[LastTokens()].context_positions == rows[COMPRESSED].context_positions
    assert rows[Ladder("recent", 16)].context_positions <= 16
    assert rows[Latest(16)].context_positions == 16
    assert made[1].text in text(Latest(16))
    assert made[0].text not in text(Latest(16))


def test_figures_are_by_turn_and_positions_stay_flat(
    tiny_model: RefragModel, made: list[Question], tmp_path: Path
) -> None:
    asked = [("harbour", setting, contexts) for setting, contexts in by_turn(made)]
    assert [setting.passages for _, setting, _ in asked][:2] == [2, 3]
    results = answer_contexts(tiny_model, asked, tmp_path, methods=METHODS, max_new_tokens=4)
    (table,) = summarise_parts(results, ("f1", "log_ppl"))
    *turns, every = table["parts"]
    assert every["part"] == ALL_PARTS
    assert every["items"] == sum(part["items"] for part in turns) == len(made) - 1
    positions = {
        method.name: [next(r for r in t["rows"] if r["method"] == method.name)["context_positions"]
        for t in turns] for method in METHODS
    }  # fmt: skip
    assert positions["full"] == sorted(positions["full"])
    assert positions["full"][-1] > 3 * positions["compressed"][-1]
    assert max(positions["recent-16-ladder"]) <= 16
    pairs = {(pair["a"], pair["b"]) for pair in every["pairs"]}
    assert {("compressed", "last-0"), ("recent-16-ladder", "latest-16")} <= pairs
    low, high = every["pairs"][0]["log_ppl_interval"]
    assert low <= every["pairs"][0]["log_ppl"] <= high

    apart = where_shown(results, {"harbour": made})
    earlier = {name for r in apart if r.set == "harbour, passage in the history" for name in r.ids}
    assert earlier == {q.id for q in made if q.history and not {*q.needed} & {*q.now}}
    assert sum(len(r.ids) for r in apart) == sum(len(r.ids) for r in results)
    assert not np.isnan(results[0].columns["f1"]).any()
