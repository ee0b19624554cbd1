"""The training loop of stages 1 to 3: transformers' Trainer around a REFRAG model."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from refrag_components.checking import parse_json
from refrag_components.corpus import TokenisedCorpus
from refrag_components.evaluation.continuation.recovery import quick_recovery
from refrag_components.training.callbacks import Clock, Fading
from refrag_components.training.objective import TrainingModel
from refrag_components.training.plans import PlannedBatches
from refrag_components.training.progress import Progress
from refrag_components.training.recipe import StageSettings
from refrag_components.weights.loading import quietly

__all__ = ["StageTrainer", "last_complete_checkpoint"]

_WEIGHTS = "trained.safetensors"
_PROGRESS = "progress.json"


class StageTrainer(Trainer):
    """Runs one stage; a killed run goes on from its last complete checkpoint.

    Checkpoints hold what trains (adapters and projector), not the base weights.

    Args:
        model: Model and loss.
        batches: One batch a step, in order.
        settings: The stage's settings.
        folder: Where checkpoints and the log go.
        validation: Held-out text for evaluations.
        compiled: Compile the decoder layers (worth it on CUDA).
    """

    def __init__(
        self,
        model: TrainingModel,
        batches: PlannedBatches,
        settings: StageSettings,
        folder: Path,
        *,
        validation: TokenisedCorpus,
        compiled: bool = False,
    ) -> None:
        self._began = time.monotonic()
        self._training = model
        self._settings = settings
        self._batches = batches
        self._validation = validation
        on_cuda = torch.cuda.is_available()
        workers = min(8, (os.cpu_count() or 1) - 1) if on_cuda else 0
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=settings.steps,
            per_device_train_batch_size=1,
            bf16=on_cuda,
            logging_steps=10,
            save_steps=settings.save_every,
            save_total_limit=2,
            eval_strategy="steps",
            eval_steps=settings.evaluate_every,
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            dataloader_prefetch_factor=4 if workers else None,
            accelerator_config={"non_blocking": on_cuda},
            logging_nan_inf_filter=False,  # it waits for the GPU at every step
            ddp_find_unused_parameters=False,  # it waits for the GPU too; see TrainingModel
            report_to="none",
            seed=batches.seed,
            use_cpu=not on_cuda,
        )
        # One process drives one GPU; `accelerate launch` starts a process for each.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            eval_dataset=batches,
            data_collator=lambda items: dict(vars(items[0])),
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean over a fixed number of tokens
        self._progress = Progress(settings.steps, settings.max_seconds)
        self.add_callback(Clock(self._progress))
        self.add_callback(Fading(model, settings.context_alignment, self._progress))
        if settings.gradient_checkpointing:
            with quietly():  # renamed in transformers 5.24
                model.refrag.decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if compiled:
            model.compile_layers()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW: rates for A and B of the decoder's adapters, one for encoder and projector."""
        settings = self._settings
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self._training.refrag.decoder.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(settings.adapter_lr(name), []).append(parameter)
        groups.setdefault(settings.encoder_lr, []).extend(self._training.encoding_parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            weight_decay=0.0,
            betas=(0.9, 0.98),
            fused=torch.cuda.is_available(),
        )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Linear warm-up, then cosine to zero (paper, appendix B.2)."""
        warm_up = round(self._settings.warmup * num_training_steps)

        def share(step: int) -> float:
            at = self._progress.at(step)
            if at < warm_up:
                return at / warm_up
            falling = (at - warm_up) / max(num_training_steps - warm_up, 1)
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * falling)))

        self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), share)
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self._batches)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Loss and gradients of one batch."""
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self._training.forget_batch()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs beside the loss what it is made of, means over the batches since the last time.

        And the seconds since this process set up the stage: a step that waits for something shows.
        """
        if "loss" in logs:
            logs["seconds"] = round(time.monotonic() - self._began, 1)
            parts, self._training.parts = self._training.parts, {}
            logs |= {name: float(torch.stack(each).mean()) for name, each in parts.items()}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures recovery on a few held-out windows at every k of the stage."""
        refrag, validation = self._training.refrag, self._validation
        with torch.compiler.set_stance("force_eager"):  # a few windows are not worth compiling for
            metrics = {
                f"eval_{name}": value
                for k in sorted(set(self._settings.chunk_sizes))
                for name, value in quick_recovery(refrag, validation, k).items()
            }
        self.log(metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self._training), folder / _WEIGHTS)
        progress = json.dumps({"elapsed": self._progress.elapsed})
        (folder / _PROGRESS).write_text(progress + "\n", encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        progress = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        self._progress.elapsed = float(progress["elapsed"])
        state = load_file(folder / _WEIGHTS)
        self._training.load_state_dict(state, strict=False)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Finds the newest checkpoint that was written to its end.

    The trainer writes its state last, so a checkpoint with a readable state is complete; one that
    a kill cut short is passed over.
    """
    found = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    )
    for checkpoint in found:
        try:
            parse_json((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return checkpoint
    return None
