"""The training loop of stages 1 and 2: transformers' Trainer around a REFRAG model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from refrag_components.corpus import IGNORED, Batch, TokenisedCorpus, batch_logits
from refrag_components.evaluation.perplexity import quick_recovery
from refrag_components.modeling import RefragModel
from refrag_components.training.plans import PlannedBatches
from refrag_components.training.recipe import StageSettings

__all__ = ["StageTrainer", "TrainingModel", "last_complete_checkpoint"]

_WEIGHTS = "trained.safetensors"


class TrainingModel(nn.Module):
    """A REFRAG model whose forward pass is the training loss.

    Args:
        refrag: The model, adapters attached.
        distillation: Weight of KL(full text || compressed) on the output tokens, 0 for none. The
            teacher is the base decoder, adapter off, with every chunk expanded: what it says is a
            far denser signal than the one token that follows.
    """

    def __init__(self, refrag: RefragModel, distillation: float = 0.0) -> None:
        super().__init__()
        self.refrag = refrag
        self.distillation = distillation
        self._loss: Callable[[Tensor, Tensor], Tensor] = _cross_entropy
        self._divergence: Callable[[Tensor, Tensor], Tensor] = _divergence

    def train(self, mode: bool = True) -> TrainingModel:
        """Keeps the encoder without dropout: chunk vectors are the same at every use."""
        super().train(mode)
        self.refrag.encoder.eval()
        return self

    def compile_layers(self) -> None:
        """Compiles the layers of decoder and encoder, and the losses.

        One layer's code serves all layers of its model.
        """
        for model in (self.refrag.decoder, self.refrag.encoder.model):
            layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
            for layer in layers:
                layer.compile(dynamic=True)
        self._loss = torch.compile(_cross_entropy, dynamic=True)
        self._divergence = torch.compile(_divergence, dynamic=True)

    def forward(self, **tensors: Tensor | None) -> dict[str, Tensor]:
        """Returns the mean loss over the labels of a ``Batch``'s tensors."""
        batch = Batch(**tensors)  # type: ignore[arg-type]
        labels, predicted = batch.labels, batch.labels.shape[1]
        if batch.context_labels is not None:
            labels = torch.cat([batch.context_labels, labels], dim=1)
        logits = batch_logits(self.refrag, batch, everywhere=batch.context_labels is not None)
        loss = self._loss(logits, labels)
        if self.distillation and batch.full_ids is not None:
            with torch.no_grad(), self.refrag.decoder.disable_adapter():
                teacher = self.refrag.decoder(
                    input_ids=batch.full_ids,
                    logits_to_keep=predicted,
                    use_cache=False,
                ).logits
            student = logits[:, -predicted:]
            loss = loss + self.distillation * self._divergence(student, teacher)
        return {"loss": loss}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
    )


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    log_p = nn.functional.log_softmax(teacher.flatten(0, 1).float(), dim=-1)
    log_q = nn.functional.log_softmax(student.flatten(0, 1).float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


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
            ddp_find_unused_parameters=True,
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
        if compiled:
            model.compile_layers()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW: rates for the decoder adapter's A and B, one for encoder adapter and projector."""
        refrag, settings = self._training.refrag, self._settings
        adapter = [(n, p) for n, p in refrag.decoder.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in adapter if "lora_B" not in n], "lr": settings.decoder_lr},
            {
                "params": [p for n, p in adapter if "lora_B" in n],
                "lr": settings.decoder_lr * settings.loraplus_lr_ratio,
            },
            {
                "params": _trainable(refrag.encoder) + _trainable(refrag.projector),
                "lr": settings.encoder_lr,
            },
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            weight_decay=0.0,
            betas=(0.9, 0.98),
            fused=torch.cuda.is_available(),
        )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Linear warm-up, then cosine to zero (paper, appendix B.2)."""
        self.lr_scheduler = get_cosine_schedule_with_warmup(
            optimizer or self.create_optimizer(),
            round(self._settings.warmup * num_training_steps),
            num_training_steps,
        )
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self._batches)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures recovery on a few held-out windows at every k of the stage."""
        metrics = {
            f"eval_{name}": value
            for k in sorted(set(self._settings.chunk_sizes))
            for name, value in quick_recovery(self._training.refrag, self._validation, k).items()
        }
        self.log(metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self._training), folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        self._training.load_state_dict(state, strict=False)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


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
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue
        return checkpoint
    return None
