"""Compiled layers take the places of chunk embeddings into account, pass by pass."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from refrag_components.training.objective import TrainingModel
from tests.training.adapted import adapted_model, window_batch


@pytest.mark.parametrize("base_teacher", [False, True])
def test_compiled_layers_give_the_same_loss_and_gradients(
    base_teacher: bool,
    tiny_base: tuple[Path, Path],
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is traced is at stake here, not the code that is made of it, which takes a minute.
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    model = adapted_model(*tiny_base)
    weights = {"distillation": 1.0, "alignment": 1.0, "context_alignment": 1.0, "next_token": 0.5}
    training = TrainingModel(model, **weights, base_teacher=base_teacher)
    batches = [
        window_batch(model, run_folder, everywhere=True, expanded=p, chunk_size=k)
        for p, k in ((0.0, 4), (0.3, 4), (1.0, 4), (0.0, 2), (0.3, 3))
    ]
    trained = [p for p in model.parameters() if p.requires_grad]

    def results() -> list[tuple[float, list[torch.Tensor]]]:
        found = []
        for batch in batches:
            loss = training(**vars(batch))["loss"]
            found.append(
                (float(loss.detach()), list(torch.autograd.grad(loss, trained, allow_unused=True)))
            )
        return found

    expected = results()
    training.compile_layers()
    for (loss, gradients), (wanted, theirs) in zip(results(), expected, strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4)
        for mine, its in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)
