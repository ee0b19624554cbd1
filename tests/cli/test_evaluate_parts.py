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
