"""Measurements whose figures are part by part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refrag_components.cli import app
from tests.tiny import TEXT


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions on one article, so that conversations can be made of them."""
    path = tmp_path_factory.mktemp("questions") / "harbour.valid.jsonl"
    records = [
        {
            "id": f"q{i}",
            "question": f"When was thing {i} dug?",
            "answers": ["1907"],
            "passages": [{"id": f"p{i // 3}", "title": "The harbour", "text": TEXT[i // 3]}],
            "gold": [f"p{i // 3}"],
            "type": "extractive",
        }
        for i in range(9)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_conversations_are_measured_turn_by_turn(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    arguments = ("chat", questions, "--model", tiny_folder, "--out", tmp_path)
    few = ("--policy", "recent", "--expanded", 0.25, "--positions", 16)
    code, output = invoke(*arguments, *few)
    assert code == 0, output
    assert "harbour.valid: " in output
    content = json.loads((tmp_path / "chat.json").read_text())
    assert content["cache_bytes_per_position"] == 2 * 2 * 2 * 8 * 4
    table = content["tables"][0]
    assert [part["number"] for part in table["parts"]][:2] == [2, 3]
    labels = {row["label"] for row in table["parts"][-1]["rows"]}
    assert {"full context", "p=0", "16 positions, recent", "16 positions, last tokens"} <= labels
    text = (tmp_path / "chat.md").read_text()
    assert "| turn 2 (" in text
    assert "### Differences, all" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results/**/*.json")}
    code, output = invoke(*arguments, *few)
    assert code == 0, output
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing was done again


def test_summaries_are_judged_by_rouge_also_beyond_the_window(
    tiny_folder: Path, tmp_path: Path
) -> None:
    stories = [[f"{text} So it was in year {j}." for text in TEXT] for j in range(6)]
    records = [
        {
            "id": f"q{j}",
            "question": "What is the plot?",
            "answers": ["The harbour was dug.", "Rain fell."],
            "passages": [{"id": f"{j}-{i}", "text": text} for i, text in enumerate(story)],
            "gold": [f"{j}-0"],
            "type": "summary",
        }
        for j, story in enumerate(stories)
    ]
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, output = invoke(
        *("summary", path, "--model", tiny_folder, "--out", tmp_path, "--max-tokens", 8),
        *("--documents", 1, "--documents", 4, "--policy", "recent", "--expanded", 0.1),
        *(own for kind in ("none", "full", "gold", "compressed", "first", "fewer", "keep", "text")
          for own in ("--method", kind)),
    )  # fmt: skip
    assert code == 0, output
    (table,) = json.loads((tmp_path / "summary.json").read_text())["tables"]
    one, four, every = table["parts"]
    cut = [{row["method"]: row["cut"] for row in part["rows"]} for part in (one, four)]
    assert cut[0]["full"] == 0
    assert cut[1]["full"] == 1  # four documents are more than the window
    assert cut[1]["compressed"] == cut[1]["gold"] == 0
    assert all(0 <= row["rougeL"] <= row["rouge1"] <= 1 for row in every["rows"])
    rows = {row["method"]: row for row in four["rows"]}
    assert rows["first-0"]["context_positions"] == rows["compressed"]["context_positions"]
    assert {("compressed", "first-0"), ("compressed", "fewer-0"), ("compressed", "full")} <= {
        (pair["a"], pair["b"]) for pair in every["pairs"]
    }
    text = (tmp_path / "summary.md").read_text()
    assert "### ROUGE-L" in text
    assert "full context, 4 documents: 100%" in text


def test_labels_are_measured_after_few_and_many_examples(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    train = tmp_path / "boolq.train.jsonl"
    record = {
        "question": "Is the harbour old?",
        "answers": ["yes"],
        "passages": [{"id": "p", "text": TEXT[0]}],
        "gold": ["p"],
        "type": "yesno",
    }
    lines = [record | {"id": f"b{i}", "question": f"Is ship {i} old?"} for i in range(9)]
    train.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ("examples", questions, "--from", questions, "--from", train)
    few = ("--model", tiny_folder, "--out", tmp_path, "--count", 2, "--count", 12)
    rows = ("--method", "none", "--method", "compressed", "--method", "fewer")
    code, output = invoke(*arguments, *few, *rows, "--expanded", 0.1)
    assert code == 0, output
    content = json.loads((tmp_path / "examples.json").read_text())
    assert content["task"] == "set"
    two, twelve, _ = content["tables"][0]["parts"]
    assert (two["part"], two["number"], two["items"]) == ("examples", 2, 9)
    positions = [
        {row["method"]: row["context_positions"] for row in part["rows"]} for part in (two, twelve)
    ]
    assert positions[1]["compressed"] > 4 * positions[0]["compressed"]
    assert positions[1]["fewer-0"] == positions[1]["compressed"]
    assert "which set it comes from" in (tmp_path / "examples.md").read_text()

    code, output = invoke(*arguments, *few, "--task", "colour")
    assert code == 1
    assert "choose from answer, set, kind" in output
    code, output = invoke(*arguments, *few, "--task", "answer")
    assert code == 1
    assert "have 1 labels; pass some" in output
    code, output = invoke(*arguments, *few[:4], "--count", 99)
    assert code == 1
    assert "there are 18" in output


def test_coverage_is_the_share_of_questions_with_all_their_passages(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Two near copies of one passage push the second that is needed out, unless they may not."""
    asked = "The harbour was dug in 1907."
    copies = [f"The harbour was dug in 1907{mark}" for mark in (".", "!", "?", ";")]
    record = {
        "id": "q",
        "question": asked,
        "answers": ["1907"],
        "passages": [{"id": str(i), "text": text} for i, text in enumerate([*copies, *TEXT])],
        "gold": ["0", "5"],
    }
    path = tmp_path / "two.jsonl"
    other = record | {"id": "r", "question": "When did it rain?", "gold": ["6"]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (record, other)))
    code, output = invoke(
        *("coverage", path, "--model", tiny_folder, "--out", tmp_path),
        *("--passages", 2, "--passages", 9, "--diversity", 0.9, "--clusters", 4),
        *("--cache", tmp_path / "cache"),
    )
    assert code == 0, output
    every, table = json.loads((tmp_path / "coverage.json").read_text())["tables"]
    assert (every["set"], every["questions"]) == ("two", 2)
    assert (table["set"], table["questions"]) == ("two, two passages or more", 1)
    rows = {(row["order"], row["passages"]): row for row in table["rows"]}
    orders = ("similarity", "MMR 0.9", "4 clusters")
    assert {*rows} == {(order, count) for order in orders for count in (2, 9)}
    assert rows["similarity", 2]["all"] == 0
    assert [rows[order, 9]["all"] for order in orders] == [1, 1, 1]
    alone = rows["similarity", 9]
    assert alone["any"] == 1
    assert alone["all_as_text_4"] == 0  # nine passages compressed take little text
    assert alone["positions_4"] < alone["tokens"] / 3
    assert "less_similar" not in alone
    assert rows["4 clusters", 9]["less_similar_interval"] == [0, 0]
    assert list((tmp_path / "cache").glob("*.npy"))
    assert "# Coverage" in (tmp_path / "coverage.md").read_text()
