"""One optimiser, two rules: each is the one that PyTorch has."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from refrag_components.training.optimizer import MuonAdamW, orthogonalised

STEPS = 4


def gradients(parameter: nn.Parameter) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(parameter.numel())
    return [torch.randn(parameter.shape, generator=generator) for _ in range(STEPS)]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    drawn = [gradients(parameter) for parameter in parameters]
    for step in range(STEPS):
        for parameter, own in zip(parameters, drawn, strict=True):
            parameter.grad = own[step].clone()
        optimizer.step()


@pytest.fixture
def vectors() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(n)) for n in (3, 7)]


@pytest.fixture
def matrices() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*shape)) for shape in ((8, 8), (8, 8), (24, 8), (6, 16))]


def test_vectors_follow_adamw(vectors: list[nn.Parameter]) -> None:
    expected = copy.deepcopy(vectors)
    train(torch.optim.AdamW(expected, lr=1e-2, betas=(0.9, 0.98), weight_decay=0), expected)
    train(MuonAdamW(vectors, lr=1e-2), vectors)
    for ours, theirs in zip(vectors, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_matrices_follow_muon(matrices: list[nn.Parameter]) -> None:
    expected = copy.deepcopy(matrices)
    muon = torch.optim.Muon(
        expected, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )  # which rounds to bfloat16 on the way
    train(muon, expected)
    train(MuonAdamW(matrices, lr=1e-2), matrices)
    for ours, theirs in zip(matrices, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=3e-3, rtol=0)


def test_a_stack_is_its_matrices() -> None:
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(3, 8, 8))
    alone = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    drawn = gradients(stack)
    together, apart = MuonAdamW([stack], lr=1e-2), MuonAdamW(alone, lr=1e-2)
    for gradient in drawn:
        stack.grad = gradient.clone()
        for parameter, own in zip(alone, gradient, strict=True):
            parameter.grad = own.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]))


def test_singular_values_come_close_to_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(5, 12, 40)))
    assert 0.6 < values.min() < values.max() < 1.3


def test_goes_on_from_a_saved_state(
    vectors: list[nn.Parameter], matrices: list[nn.Parameter]
) -> None:
    parameters = [*vectors, *matrices]
    optimizer = MuonAdamW(parameters, lr=1e-2)
    train(optimizer, parameters)
    resumed = copy.deepcopy(parameters)
    other = MuonAdamW(resumed, lr=5.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, parameters)
    train(other, resumed)
    for ours, theirs in zip(resumed, parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_what_has_no_gradient_stays(matrices: list[nn.Parameter]) -> None:
    before = copy.deepcopy(matrices)
    optimizer = MuonAdamW(matrices, lr=1e-2)
    matrices[0].grad = torch.ones_like(matrices[0])
    optimizer.step()
    assert not torch.equal(matrices[0], before[0])
    for ours, theirs in zip(matrices[1:], before[1:], strict=True):
        assert torch.equal(ours, theirs)
