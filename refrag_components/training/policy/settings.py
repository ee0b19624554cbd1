"""Settings of the policy stage: the ``[policy]`` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PolicySettings"]


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

    steps: int = 300
    max_seconds: float | None = None
    warm_up: int = 60
    examples: int = 64
    samples: int = 8
    updates: int = 4
    clip: float = 0.2
    learning_rate: float = 1e-3
    chunk_sizes: tuple[int, ...] = (4,)
    expanded: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    context_tokens: int = 1024
    output_tokens: int = 256
    question_share: float = 0.0
    max_passages: int = 10
    positions: int = 65536
    save_every: int = 50
    evaluate_every: int = 50
    evaluation_batches: int = 6
