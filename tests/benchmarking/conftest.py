from __future__ import annotations

import pytest
import torch

from refrag_components.benchmarking.shapes import Shape
from refrag_components.benchmarking.subject import ShapeSubject

TINY = Shape(
    hidden=32,
    inner=64,
    layers=2,
    heads=4,
    key_value_heads=2,
    vocabulary=512,
    encoder_layers=1,
)


@pytest.fixture(scope="session")
def tiny_subject() -> ShapeSubject:
    """Random weights of a tiny shape."""
    return ShapeSubject(TINY, device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")
