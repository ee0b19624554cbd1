"""The training loop of the stages that change weights: transformers' Trainer around the model."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from refrag_components.corpus import Batch
from refrag_components.training.callbacks import Clock
from refrag_components.training.objective import TrainingModel
from refrag_components.training.optimizer import MuonAdamW
from refrag_components.training.optimizer_file import load_optimizer, save_optimizer
from refrag_components.training.progress import Progress
from refrag_components.training.settings import StageSettings
from refrag_components.training.states import last_state, new_state, remove_left_overs
from refrag_components.weights.loading import quietly

__all__ = ["StageTrainer"]

_WEIGHTS = "trained.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_SCHEDULER = "scheduler.json"
_STEP = "step"  # under which the loader hands over the batches of a step
_LARGEST_GRADIENT = 1.0

_logger = logging.getLogger(__name__)


class StageTrainer(Trainer):
    """Runs one stage; a killed run continues from its last complete state.

    A step adds up the weighted losses of several batches. States of a running stage hold what
    trains, in float32. What a step draws depends on the seed and the step alone.

    Args:
        model: Model and loss.
        batches: The batches of each step, in order.
        settings: The stage's settings.
        folder: Where states and the log go.
        measure: Measures the model on held-out text, for the log.
        seed: Of what the model itself draws, if it does.
        compiled: Compile the layers (worth it on CUDA).
    """

    def __init__(
        self,
        model: TrainingModel,
        batches: Dataset[tuple[Batch, ...]],
        settings: StageSettings,
        folder: Path,
        *,
        measure: Callable[[], dict[str, float]],
        seed: int,
        compiled: bool = False,
    ) -> None:
        self._began = time.monotonic()
        self._training = model
        self._settings = settings
        self._measure = measure
        on_cuda = torch.cuda.is_available()
        workers = min(12, (os.cpu_count() or 1) - 1) if on_cuda else 0
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=settings.steps,
            per_device_train_batch_size=1,
            bf16=on_cuda,
            max_grad_norm=_LARGEST_GRADIENT,
            logging_steps=10,
            save_steps=settings.save_every,
            eval_strategy="steps" if settings.evaluate_every else "no",
            eval_steps=settings.evaluate_every,
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            dataloader_prefetch_factor=4 if workers else None,
            accelerator_config={"non_blocking": on_cuda},
            logging_nan_inf_filter=False,  # it waits for the GPU at every step
            ddp_find_unused_parameters=False,  # it waits for the GPU too; see TrainingModel
            report_to="none",
            seed=seed,
            use_cpu=not on_cuda,
        )
        # One process drives one GPU; `accelerate launch` starts a process for each.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            eval_dataset=batches,
            data_collator=_as_item,
        )
        model.place_teacher(arguments.device)
        self._progress = Progress(settings.steps, settings.max_seconds)
        self.add_callback(Clock(self._progress))
        if settings.gradient_checkpointing:
            with quietly():  # renamed in transformers 5.24
                model.refrag.decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if compiled:
            model.compile_layers()

    def run(self) -> None:
        """Runs all steps that are left."""
        folder = Path(str(self.args.output_dir))
        if self.is_world_process_zero():
            remove_left_overs(folder)
        state = last_state(folder)
        if state is None:
            self.train()
            return
        _logger.info("resuming %s from %s", folder.name, state.name)
        self._progress.elapsed = state.elapsed
        self.train(resume_from_checkpoint=str(state.folder))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Muon for all matrices that train, AdamW for everything else."""
        trained = [p for p in self._training.parameters() if p.requires_grad]
        self.optimizer = MuonAdamW(trained, lr=self._settings.learning_rate)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Linear warm-up, a constant rate, and a linear fall to zero at the end."""
        settings = self._settings

        def share(step: int) -> float:
            rising = (step + 1) / settings.warm_up if settings.warm_up else 1.0
            falling = self._progress.left(step) / settings.decay if settings.decay else 1.0
            return min(1.0, rising, falling)

        self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), share)
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        dataset: Any = self.train_dataset
        return SequentialSampler(dataset)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """Losses and gradients of the batches of one step; returns the weighted sum."""
        refrag = self._training.refrag
        if not refrag.decoder.training or refrag.encoder.training:  # telling all takes milliseconds
            model.train()
        torch.manual_seed((self.args.seed << 32) + self.state.global_step)
        batches: Sequence[Batch] = inputs[_STEP]
        total = torch.zeros((), device=self.args.device)
        for i, batch in enumerate(batches):
            batch = batch.to(self.args.device, non_blocking=True)
            last = i == len(batches) - 1
            # Processes that train together add up their gradients once per step.
            with nullcontext() if last else self.accelerator.no_sync(model):
                loss = model(batch) * batch.weight
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with the loss, what it is made of, means over the batches since the last time.

        And the seconds since this process set up the stage: a step that waits for something shows.
        """
        if "loss" in logs:
            logs["seconds"] = round(time.monotonic() - self._began, 1)
            parts, self._training.parts = self._training.parts, {}
            logs |= {name: float(torch.stack(each).mean()) for name, each in parts.items()}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the model on a few held-out windows."""
        with torch.compiler.set_stance("force_eager"):  # a few windows are not worth compiling for
            metrics = {f"eval_{name}": value for name, value in self._measure().items()}
        self.log(metrics)
        return metrics

    def _save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Writes a state; what else the Trainer would keep, it would pickle."""
        if not self.args.should_save:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        done, folder = self.state.global_step, Path(str(self.args.output_dir))
        with new_state(folder, steps=done, elapsed=self._progress.elapsed) as scratch:
            save_file(_trained_state(self._training), scratch / _WEIGHTS)
            save_optimizer(self.optimizer, scratch / _OPTIMIZER)
            schedule = json.dumps(self.lr_scheduler.state_dict())
            (scratch / _SCHEDULER).write_text(schedule + "\n", encoding="utf-8")
            self.state.save_to_json(str(scratch / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        self._training.load_state_dict(state, strict=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        load_optimizer(self.optimizer, Path(checkpoint) / _OPTIMIZER)
        schedule = (Path(checkpoint) / _SCHEDULER).read_text(encoding="utf-8")
        self.lr_scheduler.load_state_dict(json.loads(schedule))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: each step seeds what it draws."""


def _as_item(items: Sequence[tuple[Batch, ...]]) -> dict[str, tuple[Batch, ...]]:
    """The batches of a step; the loader takes one step at a time."""
    return {_STEP: items[0]}


def _trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
