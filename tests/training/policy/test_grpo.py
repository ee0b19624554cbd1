"""The quantities of GRPO against brute force."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.training.policy.grpo import (
    clipped_objective,
    gain_loss,
    group_advantages,
    pick_log_probs,
    picks_to_mask,
    sample_picks,
    uniform_logits,
)

finite = st.floats(-8, 8, width=32)


def brute_force(logits: list[float], picks: list[int]) -> list[float]:
    """Softmax over what is left, pick by pick, as the paper writes it."""
    left = dict(enumerate(logits))
    found = []
    for pick in picks:
        total = sum(torch.tensor(s, dtype=torch.float64).exp().item() for s in left.values())
        found.append(left.pop(pick) - torch.tensor(total, dtype=torch.float64).log().item())
    return found


@settings(max_examples=60)
@given(st.lists(finite, min_size=1, max_size=9), st.data())
def test_log_probabilities_of_ordered_picks(logits: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(logits))))
    count = data.draw(st.integers(0, len(logits)))
    padding = data.draw(st.integers(0, 2))
    picks = torch.tensor([[order[:count] + [-1] * padding]], dtype=torch.long)
    row = torch.tensor([[*logits, -1e9]], requires_grad=True)  # the last is not a chunk
    found = pick_log_probs(row, picks)
    expected = brute_force(logits, order[:count]) + [0.0] * padding
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert row.grad is not None
    assert torch.isfinite(row.grad).all()


def test_all_ordered_choices_together_have_probability_one() -> None:
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    picks = torch.tensor([list(permutations(range(5), 3))])
    total = pick_log_probs(logits, picks).sum(-1).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0))


def test_samples_follow_these_probabilities() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5]])
    generator = torch.Generator().manual_seed(1)
    picks = sample_picks(logits, torch.tensor([2]), 40_000, generator)
    every = torch.tensor([list(permutations(range(4), 2))])
    expected = pick_log_probs(logits, every).sum(-1).exp()[0]
    drawn = (picks[0, :, None] == every[0]).all(-1).float().mean(0)
    torch.testing.assert_close(drawn, expected, atol=0.01, rtol=0)


def test_samples_keep_to_their_counts_and_never_pick_padding() -> None:
    present = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [False] * 6])
    counts = torch.tensor([4, 3, 0])
    picks = sample_picks(uniform_logits(present), counts, 50)
    mask = picks_to_mask(picks, 6)
    assert picks.shape == (3, 50, 4)
    assert (mask.sum(-1) == counts.unsqueeze(1)).all()
    assert not (mask & ~present.unsqueeze(1)).any()


@given(st.lists(finite, min_size=2, max_size=8))
def test_advantages_are_normalised_within_the_group(rewards: list[float]) -> None:
    group = torch.tensor([rewards, [3.0] * len(rewards)], dtype=torch.float64)
    found = group_advantages(group)
    assert (found[1] == 0).all()  # nothing to learn where all are equal
    if group[0].std(correction=0) > 1e-6:
        expected = (group[0] - group[0].mean()) / group[0].std(correction=0)
        torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 2.0, 2.0), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6)],
)
def test_the_clip_bounds_what_is_gained_never_what_is_lost(
    ratio: float, advantage: float, expected: float
) -> None:
    log_probs = torch.tensor([[[ratio]]]).log()
    picks = torch.zeros(1, 1, 1, dtype=torch.long)
    found = clipped_objective(
        log_probs, torch.zeros(1, 1, 1), torch.tensor([[advantage]]), picks, 0.2
    )
    assert found.item() == pytest.approx(expected)


def test_the_objective_is_a_mean_over_picks_then_over_sequences() -> None:
    picks = torch.tensor([[[0, 1], [1, -1]]])
    zero = torch.zeros(1, 2, 2)
    found = clipped_objective(zero, zero, torch.tensor([[2.0, -1.0]]), picks, 0.2)
    assert found.item() == pytest.approx((2.0 - 1.0) / 2)


def test_gains_are_recovered_from_sums_over_random_choices() -> None:
    generator = torch.Generator().manual_seed(2)
    gains = torch.randn(1, 12, generator=generator)
    present = torch.ones(1, 12, dtype=torch.bool)
    picks = sample_picks(uniform_logits(present), torch.tensor([4]), 400, generator)
    choices = picks_to_mask(picks, 12)
    advantages = group_advantages((choices * gains).sum(-1))
    logits = torch.zeros(1, 12, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        loss = gain_loss(logits, choices, present, advantages)
        loss.backward()
        optimiser.step()
    assert loss.item() < 1e-3
    assert torch.corrcoef(torch.cat([logits.detach(), gains]))[0, 1] > 0.999


def test_grpo_learns_to_pick_the_one_chunk_that_helps() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.zeros(4, 16, requires_grad=True)
    helpful = torch.tensor([3, 0, 15, 8])
    counts = torch.full((4,), 3)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        old = logits.detach().clone()
        picks = sample_picks(old, counts, 8, generator)
        mask = picks_to_mask(picks, 16)
        advantages = group_advantages(mask[torch.arange(4), :, helpful].float())
        old_log_probs = pick_log_probs(old, picks)
        for _ in range(2):
            optimiser.zero_grad()
            log_probs = pick_log_probs(logits, picks)
            (-clipped_objective(log_probs, old_log_probs, advantages, picks, 0.2)).backward()
            optimiser.step()
    assert (logits.argmax(dim=1) == helpful).all()
