"""A tiny training run: base models, text and recipe in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.configuration import RefragConfig
from refrag_components.corpus import prepare_corpus
from refrag_components.modeling import RefragModel
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
context_tokens = 64
output_tokens = 16
conversation_share = 0.3
reconstruction_share = 0.2
distillation = 1.0
save_every = 5
evaluate_every = 100

[policy]
steps = 4
warm_up = 2
examples = 4
samples = 4
context_tokens = 64
output_tokens = 8
question_share = 0.5
evaluate_every = 4
evaluation_batches = 1
"""


@pytest.fixture(scope="session")
def run_folder(tiny_base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``recipe.toml``, ``text``, ``validation`` and ``questions.jsonl``."""
    root = tmp_path_factory.mktemp("training")
    decoder, encoder = tiny_base
    (root / "recipe.toml").write_text(RECIPE.format(decoder=decoder, encoder=encoder))
    model = RefragModel.from_base(
        RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    )
    prepare_corpus([" ".join(TEXT)] * 40, model, root / "text")
    prepare_corpus([" ".join(TEXT)] * 8, model, root / "validation")
    (root / "questions.jsonl").write_text(
        '{"question": "When was the harbour dug?", "answers": ["in 1907"], "passages": '
        f'[{{"text": "{TEXT[0]}", "gold": true}}, {{"text": "{TEXT[1]}", "gold": false}}]}}\n'
        f'{{"question": "Who rowed?", "answers": [], "passages": [{{"text": "{TEXT[2]}"}}]}}\n'
    )
    return root
