"""Settings of the policy stage: the ``[policy]`` table of a recipe."""

from __future__ import annotations

from pydantic import Field

from refrag_components.training.settings import Settings, Share, Steps

__all__ = ["PolicySettings"]


class PolicySettings(Settings):
    """The stage that trains the learned policies.

    Attributes:
        steps: Batches of prompts, at most.
        max_seconds: Seconds that the stage may take, loading not included; the learning rate then
            reaches zero, and GRPO begins, at the same shares of the time as of the steps. None for
            no limit.
        warm_up: How many of the steps learn where answers stand and, on running text, fit the gains
            of random choices (both ours) before the paper's GRPO begins; 0 is the paper's method
            alone.
        examples: Prompts per step.
        samples: Choices per prompt that are rewarded and compared (G).
        updates: Optimiser steps on the examples of each step.
        go_on: Whether the networks that the checkpoint carries are trained further; otherwise, and
            where it carries none, new ones are.
        clip: How far a ratio of probabilities may leave 1 (PPO's epsilon).
        learning_rate: At its peak: 4 % linear warm-up, then a cosine to zero.
        chunk_sizes: Values of k, drawn step by step; the checkpoint's own k alone if its encoder is
            made of the decoder's layers.
        expanded: Fractions p of the chunks that are chosen, drawn step by step.
        context_tokens: Context length s of running text, in tokens.
        output_tokens: Tokens after it whose log-perplexity is the reward (o).
        question_share: Share of the steps that choose for questions over passages, where the
            answer's log-perplexity is the reward.
        max_passages: Most passages per question; their number is drawn step by step.
        positions: Decoder positions per forward pass, about; bounds the memory that rewards take.
        save_every: Steps between states that a killed run goes on from.
        evaluate_every: Steps between evaluations.
        evaluation_batches: Held-out steps that an evaluation looks at.
    """

    steps: Steps = 300
    max_seconds: float | None = Field(default=None, gt=0)
    warm_up: int = Field(default=60, ge=0)
    examples: int = Field(default=64, ge=1)
    samples: int = Field(default=8, ge=2)
    updates: int = Field(default=4, ge=1)
    go_on: bool = False
    clip: float = Field(default=0.2, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    chunk_sizes: tuple[Steps, ...] = Field(default=(4,), min_length=1)
    expanded: tuple[Share, ...] = Field(default=(0.05, 0.1, 0.25, 0.5), min_length=1)
    context_tokens: int = Field(default=1024, ge=1)
    output_tokens: int = Field(default=256, ge=1)
    question_share: Share = 0.0
    max_passages: int = Field(default=10, ge=1)
    positions: int = Field(default=65536, ge=1)
    save_every: Steps = 50
    evaluate_every: Steps = 50
    evaluation_batches: int = Field(default=6, ge=1)
