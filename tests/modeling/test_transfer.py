from __future__ import annotations

import numpy as np
import pytest
import torch

from refrag_components.modeling.transfer import joined_on_device


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
