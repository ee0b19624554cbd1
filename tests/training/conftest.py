"""A tiny training run: base models, text and recipe in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from refrag_components.corpus import prepare_corpus
from refrag_components.corpus.prepare_questions import prepare_questions
from refrag_components.modeling.search_encoder import SearchEncoder
from tests.tiny import TEXT

RECIPE = """
seed = 3

[model]
decoder = "{decoder}"
encoder = "{encoder}"
encoder_layers = 1
chunk_size = 4
max_chunk_size = 4
rungs = [4, 8, 16]
token_mlp = 0

[continual]
steps = 12
learning_rate = 3e-3
warm_up = 2
save_every = 5
evaluate_every = 12
rung_shares = [0.5, 0.3, 0.2]
short = [{{ steps = 2, tokens = 64 }}, {{ steps = 2, passages = 2, tokens = 64 }}]
mix = [
    {{ windows = 2, weight = 0.55 }},
    {{ windows = 1, expanded = [0.25, 0.5], weight = 0.2 }},
    {{ windows = 1, expanded = [1.0], weight = 0.25 }},
]

[continual.text]
shapes = [{{ passages = 2, tokens = 64 }}, {{ passages = 4, tokens = 48, share = 0.5 }}]
output_tokens = 24
recalled = 1

[questions]
steps = 12
learning_rate = 1e-3
warm_up = 2
decay = 0.5
save_every = 5
positions = 1500
cloze_tokens = 120
passages = [1, 2, 3]
many_passages = [5]
rung_shares = [0.5, 0.3, 0.2]
mix = [{{ windows = 1, expanded = [0.0, 0.25] }}, {{ windows = 1, expanded = [1.0] }}]

[questions.kind_shares]
compressed = 0.2
runs = 0.1
wrong = 0.1
rare = 0.1
gold = 0.1
ladder = 0.1
dropped = 0.1
text = 0.2

[questions.cloze]
windows = 1
expanded = [0.0, 0.25, 1.0]
weight = 0.5

[questions.text]
shapes = [{{ passages = 2, tokens = 64 }}]
output_tokens = 24
recalled = 1

[twin]
steps = 12
learning_rate = 1e-3
warm_up = 2
save_every = 5
evaluate_every = 12
positions = 1500
mix = [{{ windows = 1, expanded = [1.0] }}]

[twin.text]
shapes = [{{ passages = 2, tokens = 64 }}]
output_tokens = 24
recalled = 0

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
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    prepare_corpus([" ".join(TEXT)] * 40, tokenizer, root / "text")
    prepare_corpus([" ".join(TEXT)] * 8, tokenizer, root / "validation")
    file = root / "questions.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    prepare_questions([file], tokenizer, SearchEncoder(encoder), root / "questions", retrieved=2)
    return root
