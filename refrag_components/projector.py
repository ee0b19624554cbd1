"""Chunk vectors to chunk embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Projector"]


class Projector(nn.Module):
    """Maps chunk vectors into the decoder's embedding space.

    A two-layer MLP whose hidden size is its output size (paper, appendix B.2), and optionally a
    token mix: the chunk's j-th token embedding times a learned matrix W_j, summed over j. A mean
    of token embeddings forgets their order, and an untrained decoder cannot read it; one matrix
    per place keeps the order at about 1 % of the cost of a decoder position. The sum is
    normalised to the scale of the decoder's token embeddings, which keeps training stable from
    the first step.

    Args:
        encoder_width: Width of a chunk vector (d_enc).
        decoder_width: Width of a decoder embedding (d_dec).
        mix_places: Largest number of tokens a chunk for the token mix; 0 leaves the mix out.
        embedding_scale: Standard deviation of the decoder's token embeddings.
    """

    def __init__(
        self,
        encoder_width: int,
        decoder_width: int,
        *,
        mix_places: int = 0,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(encoder_width, decoder_width),
            nn.GELU(),
            nn.Linear(decoder_width, decoder_width),
        )
        self.mix: nn.Parameter | None = None
        if mix_places:
            # The identity keeps every token where the decoder's own circuits find it; a rotation
            # of its own tells each place apart. Either alone is learnt far more slowly
            # (experiments/002).
            rotations = torch.empty(mix_places, decoder_width, decoder_width)
            for matrix in rotations:
                nn.init.orthogonal_(matrix)
            mix = (torch.eye(decoder_width) + rotations) / 2**0.5
            self.mix = nn.Parameter(mix / (embedding_scale * mix_places**0.5))
        self.norm = nn.LayerNorm(decoder_width)
        nn.init.constant_(self.norm.weight, embedding_scale)

    def forward(self, vectors: Tensor, token_embeddings: Tensor | None = None) -> Tensor:
        """Projects chunk vectors.

        Args:
            vectors: Chunk vectors, shape (..., d_enc).
            token_embeddings: Embeddings of the chunks' tokens, shape (..., places, d_dec), zero
                where a short chunk has no token; required with a token mix, unused without.

        Returns:
            Chunk embeddings, shape (..., d_dec).
        """
        projected = self.mlp(vectors)
        if self.mix is not None:
            if token_embeddings is None:
                msg = "this projector mixes token embeddings; pass token_embeddings"
                raise ValueError(msg)
            places = token_embeddings.shape[-2]
            matrix = self.mix[:places].flatten(0, 1)
            projected = projected + token_embeddings.flatten(-2) @ matrix
        return self.norm(projected)
