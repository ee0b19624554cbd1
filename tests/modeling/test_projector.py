from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.modeling.projector import Ladder, Projector, TokenProjector, whole_groups


def test_output_has_the_scale_of_token_embeddings() -> None:
    out = Projector(24, 64, embedding_scale=0.136)(torch.randn(100, 24))
    assert out.shape == (100, 64)
    assert out.std().item() == pytest.approx(0.136, rel=0.05)


def token_projector() -> TokenProjector:
    torch.manual_seed(0)
    projector = TokenProjector(24, 64, max_chunk_size=8, hidden=32, embedding_scale=0.136)
    torch.nn.init.normal_(projector.out.weight, std=0.1)  # zero before training
    return projector


def test_an_untrained_token_projector_shows_all_tokens_and_the_last_one_most() -> None:
    torch.manual_seed(0)
    projector = TokenProjector(24, 512, max_chunk_size=8, hidden=32, embedding_scale=0.136)
    tokens = 0.136 * torch.randn(50, 4, 512)
    tokens[7, 2:] = 0  # a short chunk
    with torch.no_grad():
        chunks = projector(torch.randn(50, 24), tokens)
    assert chunks.std().item() == pytest.approx(0.136, rel=0.05)
    similarity = torch.nn.functional.cosine_similarity(tokens[:, :, None], chunks, dim=-1)
    with_own_token = similarity.diagonal(dim1=0, dim2=2)  # token in the chunk, chunk
    nearest = torch.eq(similarity.argmax(dim=2).T, torch.arange(50))
    assert nearest[:2].float().mean() > 0.95
    assert nearest[2:, torch.arange(50) != 7].float().mean() > 0.95
    last = with_own_token[3].clone()
    last[7] = with_own_token[1, 7]
    assert last.min().item() > 0.6
    assert with_own_token[0].max().item() < 0.5


def test_a_token_projector_reads_vector_tokens_and_order() -> None:
    projector = token_projector()
    vectors, tokens = torch.randn(1, 24), 0.136 * torch.randn(1, 4, 64)
    chunk = projector(vectors, tokens)
    for other in (
        projector(-vectors, tokens),
        projector(vectors, tokens[:, [1, 0, 2, 3]]),
        projector(vectors, tokens * torch.tensor([0.0, 1.0, 1.0, 1.0])[:, None]),
    ):
        assert not torch.allclose(chunk, other, atol=1e-3)


@given(st.integers(1, 4), st.integers(4, 8))
def test_a_short_chunk_is_projected_alike_at_every_chunk_size(length: int, k: int) -> None:
    projector = token_projector()
    vectors, tokens = torch.randn(3, 24), 0.136 * torch.randn(3, length, 64)
    padded = torch.cat([tokens, torch.zeros(3, k - length, 64)], dim=1)
    torch.testing.assert_close(projector(vectors, tokens), projector(vectors, padded))


def test_a_token_projector_needs_token_embeddings() -> None:
    with pytest.raises(ValueError, match="pass token_embeddings"):
        token_projector()(torch.randn(2, 24))


def ladder() -> Ladder:
    torch.manual_seed(0)
    made = Ladder(4, (4, 8, 16), 64, 0.136)
    made.randomise()
    for rung in made.values():
        torch.nn.init.normal_(rung.out.weight, std=0.1)  # zero before training
    return made


@pytest.mark.parametrize(("rung", "positions"), [(4, 8), (8, 5), (16, 4)])
def test_a_rung_reads_neighbouring_chunks_of_one_passage(rung: int, positions: int) -> None:
    made, vectors, counts = ladder(), torch.randn(8, 64), [5, 1, 2]

    def project(vectors: torch.Tensor, counts: list[int]) -> torch.Tensor:
        out: torch.Tensor = made(whole_groups(vectors, counts, rung // 4), rung)
        return out

    out = project(vectors, counts)
    assert out.shape == (positions, 64)
    assert out.std().item() == pytest.approx(0.136, rel=0.05)
    alone = [project(passage, [len(passage)]) for passage in vectors.split(counts)]
    torch.testing.assert_close(out, torch.cat(alone))
    changed = vectors.clone()
    changed[4] += 1  # the last of the first passage
    differs = (project(changed, counts) - out).abs().amax(dim=1) > 1e-3
    assert differs.nonzero().flatten().tolist() == [-(-5 * 4 // rung) - 1]
    # Passages side by side, each padded with zeros to whole groups of the largest rung.
    padded = torch.zeros(3, 8, 64)
    for row, passage in zip(padded, vectors.split(counts), strict=True):
        row[: len(passage)] = passage
    kept = [own[: -(-n * 4 // rung)] for own, n in zip(made(padded, rung), counts, strict=True)]
    torch.testing.assert_close(torch.cat(kept), out)


def test_missing_chunks_of_a_last_group_count_as_zero() -> None:
    vectors = torch.randn(3, 64)
    filled = torch.cat([vectors, torch.zeros(1, 64)])
    assert torch.equal(whole_groups(vectors, [3], 4), filled)
