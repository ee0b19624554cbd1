"""The recipes that ship can be read and planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.corpus import ConversationSpec, WindowSpec
from refrag_components.training.plans import continual_plan, reconstruction_plan
from refrag_components.training.recipe import STAGES, Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_all_stages(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.stages == STAGES
    assert recipe.finetuning is not None
    for plan, settings in (
        (reconstruction_plan(recipe.reconstruction, 0), recipe.reconstruction),
        (continual_plan(recipe.continual, 0), recipe.continual),
        (continual_plan(recipe.finetuning, 0), recipe.finetuning),
    ):
        assert len(plan) == settings.steps
        windows = [spec for spec in plan if isinstance(spec, WindowSpec)]
        assert all(spec.positions <= settings.positions for spec in windows)
        assert max(spec.chunk_size for spec in plan) <= recipe.model.max_chunk_size
        asked = [spec for spec in plan if isinstance(spec, ConversationSpec)]
        share = len(asked) / len(plan)
        assert share == pytest.approx(settings.conversation_share, abs=0.06)


def test_fine_tuning_serves_every_budget_and_number_of_passages() -> None:
    recipe = Recipe.load(RECIPES[-1])
    assert recipe.finetuning is not None
    asked = [s for s in continual_plan(recipe.finetuning, 0) if isinstance(s, ConversationSpec)]
    assert {spec.expanded for spec in asked} >= {0.0, 0.1, 0.25, 1.0}
    assert {spec.passages for spec in asked} == set(range(1, 11))


def test_a_recipe_can_be_limited_in_time() -> None:
    limited = Recipe.load(RECIPES[-1]).within(60)
    assert {getattr(limited, stage).max_seconds for stage in limited.stages} == {60}
