"""The recipes that ship can be read and planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import ConversationSpec, WindowSpec
from refrag_components.training.plans import continual_plan, reconstruction_plan
from refrag_components.training.recipe import STAGES, Recipe, StageSettings

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_the_stages_that_follow_one_another(path: Path) -> None:
    recipe = Recipe.load(path)
    without_the_first = path.stem == "refrag-smollm2-135m"  # the recipe says why
    assert recipe.stages == STAGES[without_the_first:]
    assert recipe.finetuning is not None
    for stage in recipe.stages[:-1]:
        own = getattr(recipe, stage)
        plan = (reconstruction_plan if stage == "reconstruction" else continual_plan)(own, 0)
        assert len(plan) == own.steps
        windows = [spec for spec in plan if isinstance(spec, WindowSpec)]
        assert all(spec.positions <= own.positions for spec in windows)
        assert max(spec.chunk_size for spec in plan) <= recipe.model.max_chunk_size
        asked = [spec for spec in plan if isinstance(spec, ConversationSpec)]
        share = len(asked) / len(plan)
        assert share == pytest.approx(own.conversation_share, abs=0.06)


def test_fine_tuning_serves_every_budget_and_number_of_passages() -> None:
    recipe = Recipe.load(RECIPES[-1])
    assert recipe.finetuning is not None
    asked = [s for s in continual_plan(recipe.finetuning, 0) if isinstance(s, ConversationSpec)]
    assert {spec.expanded for spec in asked} >= {0.0, 0.1, 0.25, 1.0}
    assert {spec.run for spec in asked} == set(recipe.finetuning.runs)
    assert {spec.passages for spec in asked} == set(range(1, 11))


@settings(max_examples=30)
@given(
    contexts=st.lists(st.integers(64, 2000), min_size=1, max_size=4),
    output=st.integers(1, 300),
    recall=st.sampled_from([0.0, 0.4, 1.0]),
    cloze=st.sampled_from([0.0, 0.3, 1.0]),
    recent=st.sampled_from([0.0, 0.5, 1.0]),
    shuffled=st.sampled_from([0.0, 1.0]),
)
def test_windows_hold_what_they_are_asked_for(
    contexts: list[int],
    output: int,
    recall: float,
    cloze: float,
    recent: float,
    shuffled: float,
) -> None:
    if output < 96:
        cloze = 0.0  # no room
    wanted = StageSettings(
        steps=60,
        chunk_sizes=(4, 8),
        context_tokens=tuple(contexts),
        output_tokens=output,
        recall_share=recall,
        cloze_share=cloze,
        recent_share=recent,
        shuffled_share=shuffled,
    )
    windows = [s for s in continual_plan(wanted, 0) if isinstance(s, WindowSpec)]
    assert len(windows) == 60
    for spec in windows:
        assert spec.recalled <= spec.output_tokens <= min(output, spec.context_tokens)
        assert spec.context_tokens <= max(contexts)
        assert spec.passage_tokens > 0
        assert spec.shuffled == (shuffled == 1.0)
        assert not (spec.cloze and spec.recalled)
    asks = [spec.cloze for spec in windows]
    assert all(asks) == (cloze == 1.0)
    assert any(asks) == (cloze > 0)
    if recall != 0.4 and not cloze:
        assert all((spec.recalled > 0) == (recall == 1.0) for spec in windows)
    if recent != 0.5:
        assert all(spec.recent == (recent == 1.0) for spec in windows)


def test_questions_about_running_text_need_room() -> None:
    with pytest.raises(ValueError, match="no room for questions"):
        StageSettings(steps=1, cloze_share=0.1, output_tokens=32)


def test_a_recipe_can_be_limited_in_time() -> None:
    limited = Recipe.load(RECIPES[-1]).within(60)
    assert {getattr(limited, stage).max_seconds for stage in limited.stages} == {60}
