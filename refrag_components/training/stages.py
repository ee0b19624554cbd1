"""The stages as commands would run them: start, resume, finish, hand over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import set_seed

from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.modeling import RefragModel
from refrag_components.training.plans import PlannedBatches, continual_plan, reconstruction_plan
from refrag_components.training.recipe import LoraSettings, Recipe
from refrag_components.training.trainer import (
    StageTrainer,
    TrainingModel,
    last_complete_checkpoint,
)

__all__ = ["STAGES", "Stage", "attach_adapters", "run_stage"]

Stage = Literal["reconstruction", "continual"]

#: In the order they run; each starts from the model that the one before it left.
STAGES: tuple[Stage, ...] = ("reconstruction", "continual")

_PLANS = {"reconstruction": reconstruction_plan, "continual": continual_plan}

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
    """
    work = Path(folder) / stage
    finished = work / "model"
    if finished.is_dir():
        _logger.info("%s is finished: %s", stage, finished)
        return finished
    set_seed(recipe.seed)
    on_cuda = torch.cuda.is_available()
    settings = getattr(recipe, stage)
    model = _starting_model(stage, recipe, Path(folder), start_from)
    attach_adapters(model, recipe.lora)
    model.decoder.requires_grad_(False)
    if settings.decoder_lr > 0:
        for name, parameter in model.decoder.named_parameters():
            parameter.requires_grad_("lora_" in name)
    if on_cuda:
        _store_frozen_in_bfloat16(model.decoder)
    trainer = StageTrainer(
        TrainingModel(model, settings.distillation),
        PlannedBatches(
            train,
            _PLANS[stage](settings, recipe.seed),
            model,
            settings.positions,
            recipe.seed,
            questions,
            with_full_text=settings.distillation > 0,
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
    trainer.evaluate()
    trainer.state.save_to_json(str(work / "log.json"))
    model.save_pretrained(finished)
    return finished


def attach_adapters(model: RefragModel, lora: LoraSettings) -> None:
    """Puts trainable low-rank adapters on decoder and encoder where they carry none yet."""
    from peft import LoraConfig, PeftModel, get_peft_model

    def adapted(part: Any, rank: int) -> Any:
        if isinstance(part, PeftModel):
            return part
        settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        return get_peft_model(part, settings)

    model.decoder = adapted(model.decoder, lora.decoder_rank)
    model.encoder.model = adapted(model.encoder.model, lora.encoder_rank)


def _starting_model(
    stage: Stage, recipe: Recipe, folder: Path, start_from: str | Path | None
) -> RefragModel:
    if start_from is not None:
        return RefragModel.for_training(start_from)
    position = STAGES.index(stage)
    if position == 0:
        return RefragModel.from_base(recipe.model)
    return RefragModel.for_training(folder / STAGES[position - 1] / "model")


def _store_frozen_in_bfloat16(decoder: torch.nn.Module) -> None:
    """Frozen weights need no float32 copy; autocast computes in bfloat16 anyway."""
    for parameter in decoder.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
