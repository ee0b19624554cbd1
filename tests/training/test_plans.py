"""What each training step sees, and that it sees it again after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refrag_components.corpus import ConversationSpec, QuestionSet, TokenisedCorpus, WindowSpec
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.training.adapters import attach_adapters
from refrag_components.training.plans import PlannedBatches, continual_plan, reconstruction_plan
from refrag_components.training.recipe import Recipe


def test_plans_and_batches_are_the_same_at_every_start(run_folder: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    assert reconstruction_plan(recipe.reconstruction, 3) == reconstruction_plan(
        recipe.reconstruction, 3
    )
    model = RefragModel.from_base(recipe.model)
    batches = [
        PlannedBatches(
            TokenisedCorpus.load(run_folder / "text"),
            continual_plan(recipe.continual, 3),
            model,
            recipe.continual.positions,
            3,
            QuestionSet.load(run_folder / "questions"),
        )
        for _ in range(2)
    ]
    for step in range(len(batches[0])):
        first, second = (vars(b[step]) for b in batches)
        for name, value in first.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second[name]), name
            else:
                assert value == second[name], name


def test_processes_that_train_together_share_shapes_but_not_windows(run_folder: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    plan = continual_plan(recipe.continual, 3)
    batches = PlannedBatches(
        TokenisedCorpus.load(run_folder / "text"),
        plan,
        RefragModel.from_base(recipe.model),
        recipe.continual.positions,
        3,
        QuestionSet.load(run_folder / "questions"),
        replicas=2,
    )
    assert len(batches) == 2 * len(plan)
    step = next(i for i, spec in enumerate(plan) if isinstance(spec, WindowSpec))
    mine, theirs = batches[2 * step], batches[2 * step + 1]
    assert mine.labels.shape == theirs.labels.shape
    assert not torch.equal(mine.labels, theirs.labels)


def test_what_is_known_for_certain_has_no_teacher_beside(run_folder: Path) -> None:
    """Plain text, and text of the context repeated, recalled or left out of a sentence."""
    recipe = Recipe.load(run_folder / "recipe.toml")
    settings = replace(
        recipe.continual,
        expanded=(0.0, 1.0),
        conversation_share=0.2,
        cloze_share=0.2,
        output_tokens=96,
        context_tokens=(128,),
        steps=60,
    )
    plan = continual_plan(settings, 3)
    batches = PlannedBatches(
        TokenisedCorpus.load(run_folder / "text"),
        plan,
        RefragModel.from_base(recipe.model),
        settings.positions,
        3,
        QuestionSet.load(run_folder / "questions"),
        with_full_text=True,
    )
    imitating = replace(batches, base_teacher=True)
    seen = set()
    for step, spec in enumerate(plan):
        again = isinstance(spec, WindowSpec) and bool(
            spec.reconstruct or spec.recalled or spec.cloze
        )
        assert (batches[step].full_ids is None) == (spec.expanded == 1 or again)
        if isinstance(spec, WindowSpec):  # the base decoder teaches plain text too
            assert (imitating[step].full_ids is None) == again
            assert (batches[step].context_labels is None) == spec.cloze
            assert imitating[step].context_labels is None
        seen.add((type(spec), spec.expanded, again))
    assert seen == {
        (WindowSpec, 0.0, False),
        (WindowSpec, 0.0, True),
        (WindowSpec, 1.0, False),
        (WindowSpec, 1.0, True),
        (ConversationSpec, 0.0, False),
        (ConversationSpec, 1.0, False),
    }


def test_a_stage_of_running_text_can_begin_with_the_curriculum(run_folder: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    settings = replace(
        recipe.continual,
        steps=400,
        curriculum_steps=200,
        reconstruction_share=0.0,
        conversation_share=0.0,
        reconstruction_tokens=256,
    )
    plan = continual_plan(settings, 3)
    repeats = [isinstance(spec, WindowSpec) and spec.reconstruct for spec in plan]
    assert repeats == [True, False] * 100 + [False] * 200
    lengths = [spec.context_tokens for spec, again in zip(plan, repeats, strict=True) if again]
    assert sum(lengths[:30]) < sum(lengths[-30:])


def test_passages_that_answer_are_favoured_where_some_chunks_expand(run_folder: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    settings = replace(
        recipe.continual,
        steps=200,
        expanded=(0.0, 0.25, 1.0),
        conversation_share=1.0,
        reconstruction_share=0.0,
        curriculum_steps=0,
    )
    for share, wanted in ((0.0, {1.0}), (0.5, {1.0, 4.0}), (1.0, {4.0})):
        plan = continual_plan(replace(settings, favoured_share=share), 3)
        asked = [spec for spec in plan if isinstance(spec, ConversationSpec)]
        assert {spec.favour for spec in asked if spec.expanded == 0.25} == wanted
        assert {spec.favour for spec in asked if spec.expanded != 0.25} == {1.0}


def test_a_recipe_with_conversations_needs_questions(run_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    model = RefragModel.from_base(recipe.model)
    attach_adapters(model, recipe.lora)
    with pytest.raises(TrainingError, match="no questions"):
        PlannedBatches(
            TokenisedCorpus.load(run_folder / "text"),
            continual_plan(recipe.continual, 3),
            model,
            512,
            3,
        )
