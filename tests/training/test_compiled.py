"""Compiled layers compute the same, whatever a batch consists of."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from refrag_components.training.objective import TrainingModel
from tests.training.test_losses import layered, window_batch


def test_compiled_layers_give_the_same_loss_and_gradients(
    tiny_base: tuple[Path, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is traced is at stake here, not the code that is made of it, which takes a minute.
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    model = layered(*tiny_base)
    training = TrainingModel(model, model.base_decoder())
    batches = [window_batch(run_folder, p) for p in (0.0, 0.3, 1.0)]
    trained = [p for p in model.parameters() if p.requires_grad]

    def results() -> list[tuple[float, list[torch.Tensor | None]]]:
        found = []
        for batch in batches:
            loss = training(batch)
            found.append(
                (float(loss.detach()), list(torch.autograd.grad(loss, trained, allow_unused=True)))
            )
        return found

    expected = results()
    training.compile_layers()
    for (loss, gradients), (wanted, theirs) in zip(results(), expected, strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4)
        for mine, its in zip(gradients, theirs, strict=True):
            assert (mine is None) == (its is None)
            if mine is not None and its is not None:
                torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)
