"""Everything that decides a training run, in one TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from refrag_components.checking import checked
from refrag_components.exceptions import TrainingError
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.modeling.config import RefragConfig
from refrag_components.training.policy.settings import PolicySettings

__all__ = ["MOST_PASSAGES", "STAGES", "LoraSettings", "Recipe", "Stage", "StageSettings"]

Stage = Literal["reconstruction", "continual", "finetuning", "policy"]

#: In the order they run; each starts from the model that the one before it left. The policies come
#: last: their rewards must come from the decoder that they will choose for.
STAGES: tuple[Stage, ...] = ("reconstruction", "continual", "finetuning", "policy")


#: Passages that a window of running text is cut into, at most.
MOST_PASSAGES = 8

_ROOM_TO_ASK = 96  # tokens: a chat's opening, a sentence and what is missing in it

# What a recipe may say; checked where it is read.
_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Ranks of the low-rank adapters on all linear layers; alpha is twice the rank.

    Attributes:
        decoder_rank: Of the decoder's adapter for all positions.
        chunk_rank: Of the decoder's adapter at chunk embeddings alone.
        encoder_rank: Of the encoder's layers; 0 leaves the encoder as it is, so that its vectors
            stay as good to search by, and indexes stay valid when the decoder learns on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    decoder_rank: Annotated[int, Field(ge=0)] = 16
    chunk_rank: Annotated[int, Field(ge=0)] = 48
    encoder_rank: Annotated[int, Field(ge=0)] = 32


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of training.

    Attributes:
        steps: Optimiser steps, at most.
        max_seconds: Seconds that the stage may take after loading and its first step, which
            compiles; its learning rates then reach zero when the time is over. None for no limit.
            The curriculum goes by steps, so ``steps`` of stage 1, or ``curriculum_steps``, should
            be about as many as the time allows.
        positions: Decoder positions a batch, about; the number of windows follows from it.
        encoder_lr: Peak learning rate of projector and encoder adapter.
        decoder_lr: Peak learning rate of the decoder's adapter for all positions; 0 freezes it, and
            the decoder reads plain text as it did before the stage.
        chunk_adapter_lr: Peak learning rate of the decoder's adapter at chunk embeddings; 0 freezes
            it.
        loraplus_lr_ratio: How much faster the adapter's B matrices, which start at zero, learn
            than its A matrices (LoRA+, arXiv 2402.12354).
        chunk_sizes: Values of k, drawn batch by batch.
        reconstruction_tokens: Longest text to reconstruct, in tokens.
        context_tokens: Context lengths s in tokens, drawn batch by batch (stages 2 and 3).
        output_tokens: Continuation length o in tokens, or s where that is shorter (stages 2 and
            3).
        expanded: Fractions p of expanded chunks, drawn batch by batch (stages 2 and 3); 1 trains
            the plain decoder, and nothing where ``decoder_lr`` is 0.
        runs: Numbers of chunks that expand together, drawn batch by batch: single ones are as many
            places where tokens follow chunk embeddings, long ones are what policies choose.
        recent_share: Share of the batches with some chunks expanded in which these are the last
            of the context instead of random ones: what is left to gain lies far back.
        shuffled_share: Share of the batches of running text, recalls among them, whose context has
            its passages in random order: what helps is then as likely far from the output as near
            to it.
        reconstruction_share: Share of batches that go on reconstructing (stages 2 and 3).
        curriculum_steps: In so many steps at the beginning every other batch reconstructs as
            stage 1 does, short texts first: what cannot be read cannot be looked up (stages 2 and
            3).
        recall_share: Share of batches whose output is spans from anywhere in the context (stages 2
            and 3).
        cloze_share: Share of batches that ask, as turns of a chat, for names, numbers and phrases
            that sentences of the context are given without: other questions at every step (stages 2
            and 3). Words are told by spaces: text in a script without any is not asked about.
        conversation_share: Share of batches that answer questions over passages in the decoder's
            chat template: a little keeps it able to converse (stage 2), most of them make the
            fine-tuning (stage 3).
        favoured_share: Share of the batches of conversations with some chunks expanded in which
            these mostly are of the passages that answer: what a policy chooses.
        max_passages: Most passages a question; their number is drawn batch by batch.
        distillation: Weight of the divergence from what the decoder in its present state says
            after the full text; of a question's passages it reads those alone that it needs.
        base_teacher: Imitate the base decoder instead, at plain text too (p = 1): that is then read
            as before the stage, while the adapter for all positions learns to read chunk
            embeddings. Running text itself teaches only where it is repeated or recalled.
        alignment: Weight of the difference from the states between the layers of that reader.
        context_alignment: Weight of the same difference in the context of running text, where a
            chunk embedding stands for the last token of its chunk; it fades to 0 over the stage.
        next_token: Weight of the cross-entropy of the tokens that follow in batches that have
            such a reader of the full text beside; 1 in all others: plain text (p = 1) and batches
            that reconstruct or recall.
        gradient_checkpointing: Keep no activations of the decoder's layers and compute them twice:
            for decoders whose batches do not fit otherwise.
        warmup: Share of the steps for linear warm-up, before the cosine.
        save_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    steps: _Count
    max_seconds: _Weight | None = None
    positions: _Count = 49152
    encoder_lr: _Weight = 1e-3
    decoder_lr: _Weight = 4e-4
    chunk_adapter_lr: _Weight = 4e-4
    loraplus_lr_ratio: _Weight = 8.0
    chunk_sizes: tuple[_Count, ...] = (8,)
    reconstruction_tokens: _Count = 256
    context_tokens: tuple[_Count, ...] = (1024,)
    output_tokens: _Count = 256
    expanded: tuple[_Share, ...] = (0.0, 0.0, 0.1, 0.25, 1.0)
    runs: tuple[int, ...] = (1,)
    recent_share: _Share = 0.0
    shuffled_share: _Share = 0.0
    reconstruction_share: _Share = 0.0
    curriculum_steps: Annotated[int, Field(ge=0)] = 0
    recall_share: _Share = 0.0
    cloze_share: _Share = 0.0
    conversation_share: _Share = 0.0
    favoured_share: _Share = 0.0
    max_passages: _Count = 10
    distillation: _Weight = 0.0
    base_teacher: bool = False
    alignment: _Weight = 0.0
    context_alignment: _Weight = 0.0
    next_token: _Weight = 1.0
    gradient_checkpointing: bool = False
    warmup: _Share = 0.04
    save_every: _Count = 200
    evaluate_every: _Count = 500

    @property
    def reads_full_text(self) -> bool:
        """Whether a reader of the full text stands beside."""
        return self.distillation > 0 or self.alignment > 0 or self.context_alignment > 0

    def adapter_lr(self, name: str) -> float:
        """Peak learning rate of a parameter of the decoder's adapters, by its name."""
        rate = self.chunk_adapter_lr if CHUNK_ADAPTER in name else self.decoder_lr
        return rate * self.loraplus_lr_ratio if "lora_B" in name else rate

    def __post_init__(self) -> None:
        """Checks that the longest chunk fits into what it is cut from."""
        for name in ("chunk_sizes", "context_tokens", "expanded", "runs"):
            if not isinstance(given := getattr(self, name), tuple) or not given:
                msg = f"{name} = {given} must be a list of what is drawn batch by batch"
                raise ValueError(msg)
        if self.reads_full_text and self.distillation == self.alignment == self.next_token == 0:
            msg = "context_alignment alone does not train on all batches; set alignment with it"
            raise ValueError(msg)
        if self.base_teacher and not self.reads_full_text:
            msg = "a base_teacher needs something to teach; set distillation or alignment with it"
            raise ValueError(msg)
        if self.cloze_share and self.output_tokens < _ROOM_TO_ASK:
            msg = f"output_tokens = {self.output_tokens} leaves no room for questions; "
            raise ValueError(f"{msg}set at least {_ROOM_TO_ASK}, or cloze_share = 0")
        if min(self.runs) < 1:
            msg = f"runs = {list(self.runs)} are numbers of chunks, 1 or more"
            raise ValueError(msg)
        longest = max(self.chunk_sizes)
        for name, shortest, chunks in (
            ("reconstruction_tokens", self.reconstruction_tokens, 1),
            ("context_tokens", min(self.context_tokens), MOST_PASSAGES),
        ):
            if shortest < chunks * longest:
                msg = f"{name} = {shortest} is too short for chunk_sizes up to {longest}; "
                raise ValueError(msg + f"set at least {chunks * longest}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Attributes:
        model: Base models and architecture.
        lora: Adapter ranks.
        reconstruction: Stage 1; None leaves it out.
        continual: Stage 2.
        finetuning: Stage 3; None leaves it out.
        policy: Stage 4; None trains no policies.
        seed: Of every random choice.
    """

    model: RefragConfig
    lora: LoraSettings = field(default_factory=LoraSettings)
    reconstruction: StageSettings | None = None
    continual: StageSettings
    finetuning: StageSettings | None = None
    policy: PolicySettings | None = None
    seed: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the recipe has settings for, in the order they run."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    def within(self, seconds: float) -> Recipe:
        """The same recipe with so many seconds for each stage, at most."""
        stages = {name: getattr(self, name) for name in self.stages}
        limited: dict[str, Any] = {
            name: dataclasses.replace(own, max_seconds=seconds) for name, own in stages.items()
        }
        return dataclasses.replace(self, **limited)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Reads a recipe.

        Raises:
            TrainingError: If the file is missing, is no TOML or has unknown or missing entries.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError) as error:
            msg = f"cannot read the recipe {path}: {error}"
            raise TrainingError(msg) from error
        try:
            return cls(
                seed=checked(int, values.pop("seed", 0)),
                model=_build(RefragConfig, values.pop("model")),
                lora=_build(LoraSettings, values.pop("lora", {})),
                continual=_build(StageSettings, values.pop("continual")),
                **{
                    stage: _build(kind, values.pop(stage))
                    for stage, kind in (
                        ("reconstruction", StageSettings),
                        ("finetuning", StageSettings),
                        ("policy", PolicySettings),
                    )
                    if stage in values
                },
                **_none_left(values),
            )
        except KeyError as error:
            msg = f"the recipe {path} has no [{error.args[0]}] table"
            raise TrainingError(msg) from error
        except (TypeError, ValueError) as error:
            msg = f"the recipe {path} cannot be used: {error}"
            raise TrainingError(msg) from error


def _build(kind: type[Any], values: object) -> Any:
    known = {entry.name for entry in dataclasses.fields(kind) if entry.init}
    if isinstance(values, dict) and (unknown := sorted(set(values) - known)):
        msg = f"unknown entries {unknown}; known are {sorted(known)}"
        raise ValueError(msg)
    return checked(kind, values)


def _none_left(values: dict[str, Any]) -> dict[str, Any]:
    if values:
        raise ValueError(f"unknown entries {sorted(values)}")
    return values
