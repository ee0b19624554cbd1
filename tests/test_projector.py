from __future__ import annotations

import pytest
import torch

from refrag_components.projector import Projector


def test_output_has_the_scale_of_token_embeddings() -> None:
    projector = Projector(24, 64, mix_places=4, embedding_scale=0.136)
    out = projector(torch.randn(100, 24), 0.136 * torch.randn(100, 4, 64))
    assert out.shape == (100, 64)
    assert out.std().item() == pytest.approx(0.136, rel=0.05)


def test_the_mix_keeps_the_order_of_tokens() -> None:
    projector = Projector(24, 64, mix_places=4)
    vectors, tokens = torch.zeros(1, 24), torch.randn(1, 4, 64)
    swapped = tokens[:, [1, 0, 2, 3]]
    assert not torch.allclose(projector(vectors, tokens), projector(vectors, swapped), atol=1e-2)


def test_fewer_places_than_the_largest_chunk_are_fine() -> None:
    projector = Projector(24, 64, mix_places=8)
    tokens = torch.randn(3, 4, 64)
    padded = torch.cat([tokens, torch.zeros(3, 4, 64)], dim=1)
    vectors = torch.randn(3, 24)
    torch.testing.assert_close(projector(vectors, tokens), projector(vectors, padded))


def test_a_mix_needs_token_embeddings() -> None:
    with pytest.raises(ValueError, match="pass token_embeddings"):
        Projector(24, 64, mix_places=4)(torch.randn(2, 24))
    assert Projector(24, 64)(torch.randn(2, 24)).shape == (2, 64)
