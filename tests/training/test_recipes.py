"""The recipes that ship can be read; one with a mistake says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.corpus import KINDS
from refrag_components.corpus.rows import run_tokens
from refrag_components.exceptions import TrainingError
from refrag_components.training.recipe import STAGES, Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

SMALL = """
[model]
decoder = "a"
encoder = "b"
encoder_layers = 1
token_mlp = 0

[continual]
steps = 1
learning_rate = 1e-3
mix = [{ windows = 1, expanded = [0.5, 1] }]

[continual.text]
shapes = [{ passages = 1, tokens = 64 }]
"""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_all_stages(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.stages == STAGES
    assert recipe.continual is not None
    assert recipe.questions is not None
    assert recipe.twin is not None
    assert recipe.policy is not None
    rungs = recipe.model.rungs
    assert len(recipe.continual.rung_shares) == len(recipe.questions.rung_shares) == len(rungs)
    assert set(recipe.questions.kind_shares) == set(KINDS)
    assert recipe.policy.chunk_sizes == (recipe.model.chunk_size,)
    assert recipe.twin.held_out == recipe.questions.held_out
    for shape in recipe.continual.text.shapes:
        assert shape.tokens >= run_tokens(rungs)  # a whole run fits
    # A quarter of the loss or so is plain text, so that reading it gets no worse.
    weights = {mix.expanded: mix.weight for mix in recipe.continual.mix}
    assert 0.2 <= weights[1.0,] / sum(weights.values()) <= 0.3
    assert {mix.expanded for mix in recipe.twin.mix} == {(1.0,)}


def test_a_recipe_says_what_policies_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALL.replace("token_mlp", "policy_vectors = true\ntoken_mlp"))
    assert Recipe.load(path).model.policy_vectors


def test_every_stage_is_documented() -> None:
    text = (RECIPES[0].parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [stage for stage in STAGES if f"\n| `{stage}` | " not in text] == []


def test_a_recipe_can_be_limited_in_time() -> None:
    limited = Recipe.load(RECIPES[-1]).within(60)
    assert {getattr(limited, stage).max_seconds for stage in limited.stages} == {60}


def test_a_recipe_need_not_have_all_stages(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(SMALL)
    recipe = Recipe.load(tmp_path / "recipe.toml")
    assert recipe.stages == ("continual",)
    assert recipe.continual is not None
    assert recipe.continual.mix[0].expanded == (0.5, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[model]", "not toml = =", "cannot read the recipe"),
        ("[model]", "[modell]", r"no \[model\] table"),
        ("encoder_layers", "encoder_layer", "model.encoder_layer; did you mean encoder_layers?"),
        (
            "encoder_layers = 1",
            'encoder_layers = "1"',
            "model.encoder_layers: .* a valid int",
        ),
        ("[continual]", "[continul]", "unknown entry continul; did you mean continual?"),
        ("steps = 1", "step = 1", "unknown entry continual.step; did you mean steps?"),
        ("steps = 1", "adapters = 1", "unknown entry continual.adapters; known are steps, "),
        ("windows = 1", "window = 1", "unknown entry continual.mix.window; did you mean windows?"),
        ("tokens = 64", "token = 64", "continual.text.shapes.token; did you mean tokens?"),
        ("steps = 1", "steps = 0", "continual.steps: input should be greater than or equal to 1"),
        ("steps = 1", "steps = '1'", "continual.steps: input should be a valid integer"),
        ("steps = 1", "steps = 1.0", "continual.steps: input should be a valid integer"),
        ("steps = 1\n", "", "continual.steps: field required"),
        ("[0.5, 1]", "[0.5, 2]", "continual.mix.0.expanded.1: input should be less than or equal"),
        ("mix = [{ windows = 1, expanded = [0.5, 1] }]", "mix = []", "continual.mix: tuple should"),
    ],
)
def test_a_bad_recipe_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    (tmp_path / "recipe.toml").write_text(SMALL.replace(old, new))
    with pytest.raises(TrainingError, match=message):
        Recipe.load(tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot read the recipe .*recipe.toml"):
        Recipe.load(tmp_path / "recipe.toml")
