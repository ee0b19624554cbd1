"""The stages as commands would run them: start, resume, finish, hand over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from transformers import set_seed

from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.training.adapters import attach_adapters, store_frozen_in_bfloat16
from refrag_components.training.objective import TrainingModel
from refrag_components.training.plans import PlannedBatches, continual_plan, reconstruction_plan
from refrag_components.training.policy.trainer import train_policies
from refrag_components.training.recipe import Recipe, Stage
from refrag_components.training.trainer import StageTrainer, last_complete_checkpoint

__all__ = ["run_stage"]

_PLANS = {
    "reconstruction": reconstruction_plan,
    "continual": continual_plan,
    "finetuning": continual_plan,
}

_logger = logging.getLogger(__name__)


def run_stage(
    stage: Stage,
    recipe: Recipe,
    *,
    train: TokenisedCorpus,
    validation: TokenisedCorpus,
    questions: QuestionSet | None = None,
    folder: str | Path,
    start_from: str | Path | None = None,
    compiled: bool | None = None,
) -> Path:
    """Runs a stage to its end, going on where a killed run stopped.

    Args:
        stage: Which stage.
        recipe: Settings of the whole run.
        train: Training text.
        validation: Held-out text.
        questions: For the recipe's conversations.
        folder: Of the whole run; the stage works in ``folder/stage``.
        start_from: Checkpoint to start from. The default is what the stage before left in
            ``folder``, or untrained adapters for the first stage.
        compiled: Compile the decoder layers; by default on CUDA.

    Returns:
        The folder of the finished model, ``folder/stage/model``.

    Raises:
        TrainingError: If the recipe has no settings for the stage.
    """
    work = Path(folder) / stage
    finished = work / "model"
    if finished.is_dir():
        _logger.info("%s is finished: %s", stage, finished)
        return finished
    if stage not in recipe.stages:
        msg = f"the recipe has no [{stage}] table; add one to run this stage"
        raise TrainingError(msg)
    if not recipe.model.contextual:
        msg = "training encodes whole passages; set contextual = true in the recipe's [model]"
        raise TrainingError(msg)
    if recipe.policy is not None and stage == "policy":
        if os.environ.get("RANK", "0") == "0":  # minutes on one GPU: not worth several
            train_policies(
                start_from or _left_by_the_stage_before(stage, recipe, Path(folder)),
                recipe.policy,
                train=train,
                validation=validation,
                questions=questions,
                folder=work,
                seed=recipe.seed,
            )
        return finished
    set_seed(recipe.seed)
    on_cuda = torch.cuda.is_available()
    settings = getattr(recipe, stage)
    model = _starting_model(stage, recipe, Path(folder), start_from)
    attach_adapters(model, recipe.lora)
    for name, parameter in model.decoder.named_parameters():
        parameter.requires_grad_("lora_" in name and settings.adapter_lr(name) > 0)
    if on_cuda:
        store_frozen_in_bfloat16(model.decoder)
    trainer = StageTrainer(
        TrainingModel(
            model,
            settings.distillation,
            settings.alignment,
            settings.context_alignment,
            settings.next_token,
            base_teacher=settings.base_teacher,
            fold_at_once=not settings.gradient_checkpointing,  # for want of memory
        ),
        PlannedBatches(
            train,
            _PLANS[stage](settings, recipe.seed),
            model,
            settings.positions,
            recipe.seed,
            questions,
            with_full_text=settings.reads_full_text,
            base_teacher=settings.base_teacher,
            replicas=int(os.environ.get("WORLD_SIZE", "1")),  # as the launcher says
        ),
        settings,
        work,
        validation=validation,
        compiled=on_cuda if compiled is None else compiled,
    )
    checkpoint = last_complete_checkpoint(work)
    if checkpoint is not None:
        _logger.info("resuming %s from %s", stage, checkpoint.name)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(work / "log.json"))
        model.save_pretrained(finished)
    trainer.accelerator.wait_for_everyone()
    return finished


def _starting_model(
    stage: Stage, recipe: Recipe, folder: Path, start_from: str | Path | None
) -> RefragModel:
    if start_from is not None:
        return RefragModel.for_training(start_from)
    if stage == recipe.stages[0]:
        return RefragModel.from_base(recipe.model)
    return RefragModel.for_training(_left_by_the_stage_before(stage, recipe, folder))


def _left_by_the_stage_before(stage: Stage, recipe: Recipe, folder: Path) -> Path:
    before = recipe.stages[recipe.stages.index(stage) - 1]
    return folder / before / "model"
