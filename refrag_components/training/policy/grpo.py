"""The quantities of GRPO over picks without replacement (paper, appendix A.1)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "clipped_objective",
    "gain_loss",
    "group_advantages",
    "pick_log_probs",
    "picks_to_mask",
    "sample_picks",
    "uniform_logits",
]

_NEVER = -1e9  # as good as minus infinity, and finite so that no gradient is NaN


def sample_picks(
    logits: Tensor, counts: Tensor, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draws chunks one after another without replacement, the logits computed once.

    Each pick is drawn from the softmax over the chunks not picked yet. Adding Gumbel noise to the
    logits and sorting draws exactly so, all picks at once.

    Args:
        logits: One logit per chunk, (prompts, chunks), very low for padding.
        counts: Picks of each prompt (T'), 0 to its number of chunks, (prompts,), int64.
        samples: Sequences of picks per prompt (G).
        generator: Source of randomness on the logits' device.

    Returns:
        Chunk indices in the order of picking, -1 after a prompt's last, (prompts, samples,
        largest count), int64.
    """
    shape = (len(logits), samples, logits.shape[1])
    noise = torch.rand(shape, generator=generator, device=logits.device)
    gumbel = -(-noise.clamp(min=1e-20).log()).clamp(min=1e-20).log()
    order = (logits.unsqueeze(1) + gumbel).argsort(dim=-1, descending=True)
    picks = order[..., : int(counts.max())]
    place = torch.arange(picks.shape[-1], device=logits.device)
    return picks.masked_fill(place >= counts.view(-1, 1, 1), -1)


def picks_to_mask(picks: Tensor, chunks: int) -> Tensor:
    """True for picked chunks; (..., picks), -1 where there is none, to (..., chunks)."""
    # What is not a pick lands in a separate last column, which is cut off.
    mask = torch.zeros(*picks.shape[:-1], chunks + 1, dtype=torch.bool, device=picks.device)
    return mask.scatter(-1, torch.where(picks < 0, chunks, picks), True)[..., :chunks]


def pick_log_probs(logits: Tensor, picks: Tensor) -> Tensor:
    """Log-probability of each pick given those before it.

    log pi(l_t | x, l_<t) = s_(l_t) - log sum_j exp(s_j), j over the chunks not among l_<t.

    Args:
        logits: (prompts, chunks).
        picks: From ``sample_picks``, (prompts, samples, picks).

    Returns:
        (prompts, samples, picks), 0 where there is no pick.
    """
    each = logits.unsqueeze(1).expand(-1, picks.shape[1], -1)
    chosen = each.gather(-1, picks.clamp(min=0)).masked_fill(picks < 0, _NEVER)
    never_picked = each.masked_fill(picks_to_mask(picks, logits.shape[1]), _NEVER)
    # Left at t: what is never picked, and what is picked at t or later.
    later = chosen.flip(-1).logcumsumexp(-1).flip(-1)
    left = torch.logaddexp(later, never_picked.logsumexp(-1, keepdim=True))
    return (chosen - left).masked_fill(picks < 0, 0.0)


def group_advantages(rewards: Tensor) -> Tensor:
    """(r - mean) / standard deviation within each prompt's group; 0 where all are equal.

    Args:
        rewards: (prompts, samples).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    spread = rewards.std(dim=1, correction=0, keepdim=True)
    return torch.where(spread > 1e-7, centred / spread.clamp(min=1e-7), 0.0)


def clipped_objective(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, picks: Tensor, clip: float
) -> Tensor:
    """PPO's clipped objective, a mean over a sequence's picks, then over sequences; to maximise.

    Args:
        log_probs: Of each pick under the policy that trains, (prompts, samples, picks).
        old_log_probs: Under the policy that picked, same shape, without gradient.
        advantages: (prompts, samples), the same for every pick of a sequence.
        picks: From ``sample_picks``; sequences without a pick count as 0.
        clip: How far a ratio may leave 1 before it stops to count (epsilon).
    """
    ratio = (log_probs - old_log_probs).exp()
    advantage = advantages.unsqueeze(-1)
    gained = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    real = (picks >= 0).float()
    return ((gained * real).sum(-1) / real.sum(-1).clamp(min=1)).mean()


def gain_loss(logits: Tensor, expanded: Tensor, present: Tensor, advantages: Tensor) -> Tensor:
    """How badly the logits of expanded chunks add up to the advantages (ours, for a warm start).

    To first order the reward of a random choice is the sum of the gains of its chunks. Fitting
    those sums by least squares has the policy gradient's direction at the uniform policy, but its
    noise falls as the fit improves, and no step moves the policy that the next choice is drawn
    from. Logits come out as gains in standard deviations of the reward.

    Args:
        logits: (prompts, chunks).
        expanded: Uniformly random choices, (prompts, samples, chunks), bool.
        present: False for padding, (prompts, chunks).
        advantages: Group-normalised rewards of the choices, (prompts, samples).
    """
    chosen = expanded.sum(-1)
    scale = (chosen * (1 - chosen / present.sum(1, keepdim=True).clamp(min=1))).clamp(min=0.5)
    sums = (expanded * logits.unsqueeze(1)).sum(-1) / scale.sqrt()
    return (sums - sums.mean(dim=1, keepdim=True) - advantages).square().mean()


def uniform_logits(present: Tensor) -> Tensor:
    """The random policy: 0 for chunks, very low for padding."""
    return torch.where(present, 0.0, _NEVER)
