from __future__ import annotations

import pytest
import torch

from refrag_components.engines.chunk_marks import mark, unmark
from refrag_components.exceptions import InvalidVectorsError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_lost(dtype: torch.dtype) -> None:
    chunks = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    chunks[1] *= 1e-6
    chunks[2] *= 1e6
    tokens = torch.tensor([[0.0] * 16, [1000.0] * 16, [-1e-9] * 16], dtype=dtype)
    embeddings, is_marked = unmark(torch.cat([mark(chunks), tokens]))
    assert torch.equal(embeddings, torch.cat([chunks, tokens]))
    assert is_marked[:, 0].tolist() == [True] * 5 + [False] * 3


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.0, torch.float32), (1e30, torch.float32), (1.0, torch.float16)]
)
def test_what_cannot_be_marked(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidVectorsError, match="cannot be marked"):
        mark(torch.full((2, 4), value, dtype=dtype))
