from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refrag_components.benchmarking.subject import CheckpointSubject
from refrag_components.exceptions import UnknownModelError


def _subject(folder: Path) -> CheckpointSubject:
    return CheckpointSubject(
        str(folder), device=torch.device("cpu"), dtype=torch.float32, attention="sdpa"
    )


def test_rungs_of_a_checkpoint_are_one_model(layered_folder: Path) -> None:
    subject = _subject(layered_folder)
    assert subject.at(0) is subject.at(4) is subject.at(16)
    assert subject.at(8).config.chunk_size == 4


def test_a_checkpoint_with_one_rung_is_loaded_with_another_chunk_size(tiny_folder: Path) -> None:
    subject = _subject(tiny_folder)
    assert subject.at(8).config.chunk_size == 8
    assert subject.at(4).config.chunk_size == 4


def test_a_rate_that_it_lacks_is_refused_with_those_that_it_has(layered_folder: Path) -> None:
    with pytest.raises(UnknownModelError, match="no chunk embeddings of 32 tokens, only of 4, 8"):
        _subject(layered_folder).at(32)
