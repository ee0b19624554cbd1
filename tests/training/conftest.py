"""A tiny training run: base models, text and recipe in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refrag_components.corpus import prepare_corpus
from refrag_components.corpus.prepare_questions import prepare_questions
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from tests.tiny import TEXT

RECIPE = """
seed = 3

[model]
decoder = "{decoder}"
encoder = "{encoder}"
chunk_size = 4
max_chunk_size = 8

[lora]
decoder_rank = 4
encoder_rank = 4

[reconstruction]
steps = 20
positions = 512
chunk_sizes = [4, 8]
reconstruction_tokens = 32
save_every = 5
evaluate_every = 100
encoder_lr = 1e-2

[continual]
steps = 12
positions = 1024
chunk_sizes = [4]
reconstruction_tokens = 32
context_tokens = [32, 64]
output_tokens = 16
conversation_share = 0.3
reconstruction_share = 0.2
recall_share = 0.3
recent_share = 0.5
shuffled_share = 0.5
distillation = 1.0
alignment = 5.0
context_alignment = 1.0
save_every = 5
evaluate_every = 100

[finetuning]
steps = 12
positions = 1024
chunk_sizes = [4, 8]
context_tokens = [64, 128]
output_tokens = 96
expanded = [0.0, 0.25, 1.0]
conversation_share = 0.6
cloze_share = 0.2
max_passages = 4
distillation = 1.0
save_every = 5
evaluate_every = 100

[policy]
steps = 8
warm_up = 4
examples = 4
samples = 4
context_tokens = 64
output_tokens = 8
question_share = 0.5
save_every = 2
evaluate_every = 4
evaluation_batches = 1
"""


def _question(number: int, text: str, answers: list[str], *passages: int) -> dict[str, Any]:
    """A question over passages of ``TEXT``; the first one answers it, if it has an answer."""
    return {
        "id": f"q{number}",
        "question": text,
        "answers": answers,
        "passages": [{"id": f"p{i}", "text": TEXT[i]} for i in passages],
        "gold": [f"p{passages[0]}"] if answers else [],
        "meta": {"related": [f"p{passages[0]}"]},
    }


QUESTIONS = [
    _question(0, "When was the harbour dug?", ["in 1907"], 0, 1),
    _question(1, "Where is the harbour?", ["north of the old town", "to the north"], 0),
    _question(2, "Does the harbour lie south?", ["no"], 0),
    _question(3, "Who rowed?", [], 2),
    _question(4, "How long did it rain?", ["for three days"], 2, 3),
    _question(5, "What does the compiler build?", ["a tree of names"], 3, 4),
]


@pytest.fixture(scope="session")
def run_folder(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``recipe.toml``, ``text``, ``validation`` and ``questions``."""
    root = tmp_path_factory.mktemp("training")
    decoder, encoder = tiny_base
    (root / "recipe.toml").write_text(RECIPE.format(decoder=decoder, encoder=encoder))
    model = RefragModel.from_base(
        RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    )
    prepare_corpus([" ".join(TEXT)] * 40, model, root / "text")
    prepare_corpus([" ".join(TEXT)] * 8, model, root / "validation")
    (root / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    prepare_questions([root / "questions.jsonl"], model, root / "questions", retrieved=2)
    return root
