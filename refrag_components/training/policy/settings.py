"""Settings of the policy stage: the ``[policy]`` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

__all__ = ["PolicySettings"]


_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Stage 4 of training.

    Attributes:
        steps: Batches of prompts, at most.
        max_seconds: Seconds that the stage may take, loading not included; the learning rate then
            reaches zero, and GRPO begins, at the same shares of the time as of the steps. None for
            no limit.
        warm_up: How many of the steps learn where answers stand and, on running text, fit the gains
            of random choices (both ours) before the paper's GRPO begins; 0 is the paper's method
            alone.
        examples: Prompts a step.
        samples: Choices a prompt that are rewarded and compared (G).
        updates: Optimiser steps on the examples of each step.
        clip: How far a ratio of probabilities may leave 1 (PPO's epsilon).
        learning_rate: At its peak: 4 % linear warm-up, then a cosine to zero.
        chunk_sizes: Values of k, drawn step by step.
        expanded: Fractions p of the chunks that are chosen, drawn step by step.
        context_tokens: Context length s of running text, in tokens.
        output_tokens: Tokens after it whose log-perplexity is the reward (o).
        question_share: Share of the steps that choose for questions over passages, where the
            answer's log-perplexity is the reward.
        max_passages: Most passages a question; their number is drawn step by step.
        positions: Decoder positions a forward pass, about; bounds the memory that rewards take.
        save_every: Steps between states that a killed run goes on from.
        evaluate_every: Steps between evaluations.
        evaluation_batches: Held-out steps that an evaluation looks at.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    steps: _Count = 300
    max_seconds: Annotated[float, Field(ge=0)] | None = None
    warm_up: Annotated[int, Field(ge=0)] = 60
    examples: _Count = 64
    samples: _Count = 8
    updates: _Count = 4
    clip: Annotated[float, Field(gt=0)] = 0.2
    learning_rate: Annotated[float, Field(ge=0)] = 1e-3
    chunk_sizes: Annotated[tuple[_Count, ...], Field(min_length=1)] = (4,)
    expanded: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.05, 0.1, 0.25, 0.5)
    context_tokens: _Count = 1024
    output_tokens: _Count = 256
    question_share: _Share = 0.0
    max_passages: _Count = 10
    positions: _Count = 65536
    save_every: _Count = 50
    evaluate_every: _Count = 50
    evaluation_batches: _Count = 6
