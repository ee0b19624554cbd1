"""``refrag train`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refrag_components.cli import app
from refrag_components.corpus import TokenisedCorpus
from refrag_components.training.recipe import STAGES
from tests.tiny import TEXT

RECIPE = """
[model]
decoder = "{decoder}"
encoder = "{encoder}"
encoder_layers = 1
chunk_size = 4
max_chunk_size = 4
token_mlp = 0

[continual]
steps = 2
learning_rate = 1e-3
mix = [{{ windows = 1 }}]

[continual.text]
shapes = [{{ passages = 1, tokens = 64 }}]
output_tokens = 16
"""

QUESTIONS = """
[questions]
steps = 2
learning_rate = 1e-3
positions = 300
kind_shares = { compressed = 1.0 }
mix = [{ windows = 1 }]

[questions.text]
shapes = [{ passages = 1, tokens = 64 }]
output_tokens = 16
"""


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def folder(tiny_base: tuple[Path, Path], tmp_path: Path) -> Path:
    decoder, encoder = tiny_base
    (tmp_path / "recipe.toml").write_text(RECIPE.format(decoder=decoder, encoder=encoder))
    (tmp_path / "text.jsonl").write_text(f'{{"text": "{" ".join(TEXT)}"}}\n' * 20)
    return tmp_path


def test_questions_are_prepared_and_trained_on(folder: Path) -> None:
    recipe = folder / "recipe.toml"
    with recipe.open("a") as file:
        file.write(QUESTIONS)
    question = {"id": "1", "question": "What fell?", "answers": ["rain"], "gold": ["p"]}
    question["passages"] = [{"id": "p", "text": TEXT[2]}, {"id": "o", "text": TEXT[1]}]
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    data = ["--recipe", recipe, "--out"]
    assert invoke("prepare", folder / "text.jsonl", *data, folder / "text")[0] == 0
    code, output = invoke(
        "questions", folder / "questions.jsonl", *data, folder / "questions", "--bf16"
    )
    assert code == 0, output
    assert "1 questions in" in output
    run = ["run", *data, folder / "run", "--text", folder / "text", "--validation", folder / "text"]
    code, output = invoke(*run, "--max-seconds", 600)
    assert code == 1
    assert "refrag train questions" in output
    assert not (folder / "run").exists()  # told before the first stage has been trained
    code, output = invoke(*run, "--max-seconds", 600, "--questions", folder / "questions")
    assert code == 0, output
    assert (folder / "run" / "questions" / "model" / "config.json").is_file()
    (folder / "bad.jsonl").write_text('{"question": "What?"}\n')
    code, output = invoke("questions", folder / "bad.jsonl", *data, folder / "bad")
    assert code == 1
    assert "line 1" in output
    assert not (folder / "bad").exists()


def test_text_and_recipe_to_checkpoint(folder: Path) -> None:
    recipe = folder / "recipe.toml"
    for name in ("text", "held-out"):
        code, output = invoke(
            "prepare", folder / "text.jsonl", "--recipe", recipe, "--out", folder / name
        )
        assert code == 0, output
    assert f"{len(TokenisedCorpus.load(folder / 'text')):,} tokens" in output
    run = ["run", "--recipe", recipe, "--text", folder / "text", "--out", folder / "run"]
    run += ["--validation", folder / "held-out"]
    code, output = invoke(*run)
    assert code == 0, output
    assert (folder / "run" / "continual" / "model" / "config.json").is_file()
    code, output = invoke(*run)  # finished stages are not run again
    assert code == 0, output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\n{"txt": 1}\n', "line 2"),
        ("no json\n", "line 1"),
        ("", "no text to train on"),
    ],
)
def test_bad_text_leaves_nothing_behind(folder: Path, content: str, message: str) -> None:
    (folder / "bad.jsonl").write_text(content)
    before = set(folder.iterdir())
    code, output = invoke(
        *("prepare", folder / "bad.jsonl", "--recipe", folder / "recipe.toml"),
        *("--out", folder / "bad"),
    )
    assert code == 1
    assert message in output
    assert set(folder.iterdir()) == before


def test_wrong_names_are_named(folder: Path) -> None:
    code, output = invoke(
        *("run", "--recipe", folder / "recipe.toml", "--text", folder / "nowhere"),
        *("--validation", folder / "nowhere", "--out", folder / "run", "--stage", "polishing"),
    )
    assert code == 1
    assert f"stages are {', '.join(STAGES)}" in output
    code, output = invoke("prepare", folder / "x", "--recipe", folder / "no.toml", "--out", folder)
    assert code == 1
    assert "cannot read the recipe" in output
