"""A training step tells the device what to do and never asks what came of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import masking_utils

from refrag_components.training.objective import TrainingModel
from refrag_components.training.optimizer import MuonAdamW
from refrag_components.training.whole_rows import whole_rows
from tests.training.test_losses import layered, window_batch
from tests.waits import waits


@pytest.mark.parametrize("expanded", [0.0, 0.3, 1.0])
def test_a_step_does_not_wait_for_the_device(
    expanded: float, tiny_base: tuple[Path, Path], run_folder: Path
) -> None:
    model = layered(*tiny_base)
    training = TrainingModel(model, model.base_decoder())
    optimizer = MuonAdamW([p for p in training.parameters() if p.requires_grad], lr=1e-4)
    batch = window_batch(run_folder, expanded)

    def step() -> None:
        training(batch).backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()

    assert waits(step) == []
    # As a decoder is called elsewhere it does: else this test would see nothing.
    elsewhere = waits(lambda: model.decoder(input_ids=batch.token_ids, use_cache=False))
    assert "local_scalar_dense" in elsewhere


def test_elsewhere_texts_in_one_row_are_still_told_apart() -> None:
    packed = torch.tensor([[0, 1, 2, 0, 1]])

    def found() -> list[list[int]] | None:
        numbers = masking_utils.find_packed_sequence_indices(packed)
        return None if numbers is None else numbers.tolist()

    with ThreadPoolExecutor(1) as other, whole_rows():
        with whole_rows():
            assert found() is None
        assert found() is None
        assert other.submit(found).result() == [[0, 0, 0, 1, 1]]
    assert found() == [[0, 0, 0, 1, 1]]
