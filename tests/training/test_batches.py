"""What each step of the stages sees; the same at every start and on every number of processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.corpus import Batch, ClozeForm, QuestionSet, TokenisedCorpus
from refrag_components.exceptions import TrainingError
from refrag_components.training.continual import ContinualBatches, ContinualSettings
from refrag_components.training.questions import QuestionBatches, QuestionSettings, TwinSettings
from refrag_components.training.recipe import Recipe
from refrag_components.training.text_batches import Frame, Mix, Shape, TextSource
from tests.tiny import tiny_decoder_tokenizer

FRAME = Frame(
    chunk_size=4,
    rungs=(4, 8, 16),
    rung_shares=(0.5, 0.3, 0.2),
    separator=0,
    form=ClozeForm.of(tiny_decoder_tokenizer()),
)


@pytest.fixture
def recipe(run_folder: Path) -> Recipe:
    return Recipe.load(run_folder / "recipe.toml")


def continual(run_folder: Path, recipe: Recipe, **changes: Any) -> ContinualBatches:
    assert recipe.continual is not None
    settings: ContinualSettings = recipe.continual.model_copy(update=changes)
    source = TextSource(TokenisedCorpus.load(run_folder / "text"), settings.text, FRAME)
    return ContinualBatches(settings, source, seed=3)


def asked(run_folder: Path, settings: TwinSettings, **changes: Any) -> QuestionBatches:
    settings = settings.model_copy(update=changes)
    source = TextSource(TokenisedCorpus.load(run_folder / "text"), settings.text, FRAME)
    questions = QuestionSet.load(run_folder / "questions")
    return QuestionBatches(settings, questions, source, seed=3)


def shapes(step: tuple[Batch, ...]) -> list[torch.Size]:
    return [batch.token_ids.shape for batch in step]


def equal(one: tuple[Batch, ...], other: tuple[Batch, ...]) -> bool:
    return shapes(one) == shapes(other) and all(
        torch.equal(mine.token_ids, its.token_ids)
        and torch.equal(mine.chunk_index, its.chunk_index)
        for mine, its in zip(one, other, strict=True)
    )


def test_a_step_is_the_same_at_every_start(run_folder: Path, recipe: Recipe) -> None:
    assert recipe.questions is not None
    for make in (
        lambda: continual(run_folder, recipe),
        lambda: asked(run_folder, recipe.questions),
    ):
        first, again = make(), make()
        assert all(equal(first[step], again[step]) for step in (7, 2, 7))
        assert not equal(first[5], first[6])


def test_processes_that_train_together_see_other_windows_of_one_shape(
    run_folder: Path, recipe: Recipe
) -> None:
    alone = continual(run_folder, recipe)
    batches = ContinualBatches(alone.settings, alone.source, seed=3, replicas=2)
    assert len(batches) == 2 * len(alone)
    for step in range(6):
        mine, its = batches[2 * step], batches[2 * step + 1]
        assert [len(batch.token_ids) for batch in mine] == [len(batch.token_ids) for batch in its]
        assert not equal(mine, its)


def test_short_contexts_come_first(run_folder: Path, recipe: Recipe) -> None:
    batches = continual(
        run_folder,
        recipe,
        text=recipe.continual and recipe.continual.text.model_copy(update={"short_chunks": 0.0}),
    )
    tokens = [int(batches[step][2].full_ids[0].shape[1]) for step in range(4)]  # type: ignore[index]
    assert tokens[:2] == [88, 88]  # 1 + 64 + 23 tokens
    assert tokens[2:] == [152, 152]


def test_the_weights_of_a_step_add_up_to_one(run_folder: Path, recipe: Recipe) -> None:
    step = continual(run_folder, recipe)[8]
    assert [batch.name for batch in step] == ["compressed", "runs", "text"]
    assert sum(batch.weight for batch in step) == pytest.approx(1)
    assert [batch.weight for batch in step] == pytest.approx([0.55, 0.2, 0.25])
    assert not step[2].groups  # text alone: nothing is encoded


def test_windows_stand_on_all_rungs(run_folder: Path, recipe: Recipe) -> None:
    batches = continual(run_folder, recipe, mix=(Mix(windows=20, expanded=(0.0,)),))
    (batch,) = batches[9]
    assert batch.rungs == (4, 8, 16)


def test_a_batch_has_about_the_same_number_of_tokens_in_every_shape(
    run_folder: Path, recipe: Recipe
) -> None:
    source, mix = continual(run_folder, recipe).source, Mix(windows=8, expanded=(1.0,))
    rng = np.random.default_rng(0)
    sizes = [
        source.batch(Shape(passages=n, tokens=64), mix, 1.0, rng, 1.0).token_ids.numel()
        for n in (1, 4, 16)
    ]
    assert max(sizes) < 1.2 * min(sizes)


def test_all_kinds_are_asked_in_their_shares(run_folder: Path, recipe: Recipe) -> None:
    settings = recipe.questions
    assert isinstance(settings, QuestionSettings)
    batches = asked(run_folder, settings, steps=400, positions=100)
    seen = Counter(batches[step][0].name for step in range(300))
    assert set(seen) == {f"asked {kind}" for kind in settings.kind_shares}
    for kind, share in settings.kind_shares.items():
        assert seen[f"asked {kind}"] / 300 == pytest.approx(share, abs=0.08)
    assert {step[1].weight for step in map(batches.__getitem__, range(5))} == {0.3}


def test_conversations_keep_to_the_positions(run_folder: Path, recipe: Recipe) -> None:
    assert recipe.questions is not None
    for positions in (500, 4000):
        batches = asked(run_folder, recipe.questions, positions=positions)
        for step in range(12):
            batch = batches[step][0]
            rows, width = batch.token_ids.shape
            assert rows == 1 or rows * (width - 8) <= positions


def test_the_twin_sees_text_alone(run_folder: Path, recipe: Recipe) -> None:
    assert recipe.twin is not None
    batches = asked(run_folder, recipe.twin)
    for step in range(6):
        assert not any(batch.groups for batch in batches[step])
    without = asked(run_folder, recipe.twin, text_weight=0.0)
    assert [batch.name for batch in without[0]] == ["asked text"]


def test_running_text_is_asked_about(run_folder: Path, recipe: Recipe) -> None:
    assert recipe.questions is not None
    batches = asked(run_folder, recipe.questions)
    seen = set()
    for step in range(12):
        _, text, cloze = batches[step]
        assert text.name in ("compressed", "runs", "text")
        assert (cloze.name, cloze.weight) == ("cloze", 0.5)
        assert len(cloze.labels)
        seen.add(bool(cloze.groups))
    assert seen == {True, False}


def test_a_text_that_is_too_short_is_refused(run_folder: Path, recipe: Recipe) -> None:
    assert recipe.continual is not None
    text = recipe.continual.text.model_copy(update={"shapes": (Shape(passages=10, tokens=10**6),)})
    with pytest.raises(TrainingError, match="a window needs 10000025"):
        TextSource(TokenisedCorpus.load(run_folder / "text"), text, FRAME)
