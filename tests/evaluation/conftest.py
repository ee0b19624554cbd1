from __future__ import annotations

from collections.abc import Callable

import pytest

from refrag_components.corpus.question_files import Question
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
