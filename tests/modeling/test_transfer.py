from __future__ import annotations

import numpy as np
import pytest
import torch

from refrag_components.modeling.transfer import joined_on_device, vectors_on_device
from refrag_components.vectors import ChunkVectors


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_arrays_are_joined_in_order(dtype: str) -> None:
    rows = [np.arange(6, dtype=dtype).reshape(3, 2), np.full((1, 2), 7, dtype)]
    rows[0].flags.writeable = False  # as those of chunk vectors
    joined = joined_on_device(rows, torch.device("cpu"))
    assert joined.tolist() == [[0, 1], [2, 3], [4, 5], [7, 7]]
    assert str(joined.dtype) == f"torch.{dtype}"


def test_the_result_is_a_copy() -> None:
    row = np.zeros((1, 2), np.float32)
    joined_on_device([row], torch.device("cpu")).fill_(1)
    assert row.sum() == 0


@pytest.mark.parametrize("kinds", [("float16", "float16"), ("float16", "float32")])
def test_vectors_go_in_half_precision_if_all_are_kept_so(kinds: tuple[str, str]) -> None:
    passages = [
        ChunkVectors(np.full((2, 3), 0.5 + i, kind), np.arange(8), 4, "beef")
        for i, kind in enumerate(kinds)
    ]
    joined = vectors_on_device(passages, torch.device("cpu"))
    assert joined.dtype == (torch.float16 if kinds[1] == "float16" else torch.float32)
    assert joined.float().tolist() == [[0.5] * 3] * 2 + [[1.5] * 3] * 2
