from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from refrag_components.evaluation.questions import Question
from tests.tiny import TEXT


@pytest.fixture
def ask() -> Callable[..., Question]:
    """Makes a question about the harbour, with one passage that answers it."""

    def make(number: int = 0, text: str = "When was it dug?", **changes: object) -> Question:
        values = {
            "id": f"q{number}",
            "text": text,
            "answers": ("1907",),
            "kind": "number",
            "needed": (TEXT[0],),
            "others": (TEXT[1 + number % 4],),
            **changes,
        }
        return Question(**values)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def question_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions, one of them a yes/no question and one without an answer."""
    path = tmp_path_factory.mktemp("questions") / "harbour.valid.jsonl"
    records = []
    for i in range(6):
        passages = [
            {"id": "p0", "title": "The harbour", "text": TEXT[0]},
            {"id": "p1", "text": TEXT[1 + i % 4]},
        ]
        record = {
            "id": f"q{i}",
            "question": f"When was harbour {i} dug?",
            "answers": ["1907"],
            "passages": passages,
            "gold": ["p0"],
            "type": "extractive",
        }
        if i == 4:
            record |= {"answers": ["no"], "type": "yesno"}
        if i == 5:
            record |= {"answers": [], "gold": [], "meta": {"related": ["p0"]}}
        records.append(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
