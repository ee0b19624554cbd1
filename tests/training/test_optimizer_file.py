"""An optimiser that was written and read makes the steps of one that was not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from refrag_components.training.optimizer import MuonAdamW
from refrag_components.training.optimizer_file import load_optimizer, save_optimizer

Parameters = Sequence[nn.Parameter]


@pytest.mark.parametrize(
    "make", [lambda p: MuonAdamW(p, lr=0.1), lambda p: AdamW(p, lr=0.1, weight_decay=0.01)]
)
def test_it_goes_on_as_if_nothing_had_happened(
    make: Callable[[Parameters], Optimizer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    mine = [nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (5,), (2,))]
    first = make(mine)

    def step(optimizer: Optimizer, parameters: Parameters) -> None:
        for parameter in parameters[:2]:  # the last one never takes part
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()

    for rate in (0.1, 0.05):
        for group in first.param_groups:
            group["lr"] = rate
        step(first, mine)
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in mine]
    second = make(theirs)
    save_optimizer(first, tmp_path / "optimizer.safetensors")
    load_optimizer(second, tmp_path / "optimizer.safetensors")
    for _ in range(2):
        step(first, mine)
        step(second, theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)


def test_one_of_more_parameters_is_refused(tmp_path: Path) -> None:
    save_optimizer(AdamW([nn.Parameter(torch.ones(2))]), tmp_path / "optimizer.safetensors")
    other = AdamW([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="size"):
        load_optimizer(other, tmp_path / "optimizer.safetensors")
