"""Everything that decides a training run, in one TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refrag_components.configuration import RefragConfig
from refrag_components.exceptions import TrainingError
from refrag_components.training.policy_settings import PolicySettings

__all__ = ["LoraSettings", "Recipe", "StageSettings"]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Ranks of the low-rank adapters on all linear layers; alpha is twice the rank.

    Attributes:
        decoder_rank: Of the decoder's layers that ``decoder_ranks`` does not name.
        decoder_ranks: Other ranks by the end of a layer's name, a regular expression.
        encoder_rank: Of the encoder's layers.
    """

    decoder_rank: int = 64
    decoder_ranks: dict[str, int] = field(default_factory=dict)
    encoder_rank: int = 32


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of training.

    Attributes:
        steps: Optimiser steps.
        positions: Decoder positions a batch, about; the number of windows follows from it.
        encoder_lr: Peak learning rate of encoder adapter and projector.
        decoder_lr: Peak learning rate of the decoder adapter; 0 freezes the decoder.
        loraplus_lr_ratio: How much faster the adapter's B matrices, which start at zero, learn
            than its A matrices (LoRA+, arXiv 2402.12354).
        chunk_sizes: Values of k, drawn batch by batch.
        reconstruction_tokens: Longest text to reconstruct, in tokens.
        context_tokens: Context length s in tokens (stage 2).
        output_tokens: Continuation length o in tokens (stage 2).
        expanded: Fractions p of expanded chunks, drawn batch by batch (stage 2); 1 trains the
            plain decoder.
        reconstruction_share: Share of batches that go on reconstructing (stage 2).
        conversation_share: Share of batches that answer questions over passages in the decoder's
            chat template, which keeps it able to converse (stage 2).
        distillation: Weight of the divergence from the base decoder with the full text.
        warmup: Share of the steps for linear warm-up, before the cosine.
        save_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations.
    """

    steps: int
    positions: int = 49152
    encoder_lr: float = 1e-3
    decoder_lr: float = 4e-4
    loraplus_lr_ratio: float = 8.0
    chunk_sizes: tuple[int, ...] = (8,)
    reconstruction_tokens: int = 256
    context_tokens: int = 1024
    output_tokens: int = 256
    expanded: tuple[float, ...] = (0.0, 0.0, 0.1, 0.25, 1.0)
    reconstruction_share: float = 0.0
    conversation_share: float = 0.0
    distillation: float = 0.0
    warmup: float = 0.04
    save_every: int = 200
    evaluate_every: int = 500


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Attributes:
        model: Base models and architecture.
        lora: Adapter ranks.
        reconstruction: Stage 1.
        continual: Stage 2.
        policy: Stage 3; None trains no policies.
        seed: Of every random choice.
    """

    model: RefragConfig
    lora: LoraSettings = field(default_factory=LoraSettings)
    reconstruction: StageSettings
    continual: StageSettings
    policy: PolicySettings | None = None
    seed: int = 0

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Reads a recipe.

        Raises:
            TrainingError: If the file is missing, is no TOML or has unknown or missing entries.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            msg = f"cannot read the recipe {path}: {error}"
            raise TrainingError(msg) from error
        try:
            return cls(
                model=_build(RefragConfig, values.pop("model")),
                lora=_build(LoraSettings, values.pop("lora", {})),
                reconstruction=_build(StageSettings, values.pop("reconstruction")),
                continual=_build(StageSettings, values.pop("continual")),
                policy=_build(PolicySettings, values.pop("policy")) if "policy" in values else None,
                **values,
            )
        except KeyError as error:
            msg = f"the recipe {path} has no [{error.args[0]}] table"
            raise TrainingError(msg) from error
        except (TypeError, ValueError) as error:
            msg = f"the recipe {path} cannot be used: {error}"
            raise TrainingError(msg) from error


def _build(kind: type[Any], values: dict[str, Any]) -> Any:
    known = {entry.name for entry in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        msg = f"unknown entries {unknown}; known are {sorted(known)}"
        raise ValueError(msg)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
