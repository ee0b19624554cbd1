"""Chunk vectors to chunk embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from refrag_components.modeling.config import RefragConfig

__all__ = [
    "Ladder",
    "Projector",
    "RungProjector",
    "TokenProjector",
    "make_projector",
    "whole_groups",
]

_EPS = 1e-5

_ROTATED_WEIGHT = 0.7  # of the random mix of all chunks, in an untrained rung
_TOKEN_WEIGHT = 0.5  # of a chunk's tokens before the last one, in an untrained mix


def make_projector(
    config: RefragConfig, encoder_width: int, decoder_width: int, embedding_scale: float
) -> Projector | TokenProjector | Ladder:
    """The untrained projector that a configuration asks for."""
    if config.encoder_layers:
        return Ladder(config.chunk_size, config.rungs, decoder_width, embedding_scale)
    if config.token_mlp:
        return TokenProjector(
            encoder_width,
            decoder_width,
            max_chunk_size=config.max_chunk_size,
            hidden=config.token_mlp,
            embedding_scale=embedding_scale,
        )
    return Projector(encoder_width, decoder_width, embedding_scale=embedding_scale)


class Projector(nn.Module):
    """Maps chunk vectors into the decoder's embedding space.

    A two-layer MLP whose hidden size is its output size (paper, appendix B.2), normalised to the
    scale of the decoder's token embeddings, which keeps training stable from the first step.

    Args:
        encoder_width: Width of a chunk vector (d_enc).
        decoder_width: Width of a decoder embedding (d_dec).
        embedding_scale: Standard deviation of the token embeddings that the decoder's layers
            receive.
    """

    def __init__(
        self, encoder_width: int, decoder_width: int, *, embedding_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(encoder_width, decoder_width),
            nn.GELU(),
            nn.Linear(decoder_width, decoder_width),
        )
        self.norm = nn.LayerNorm(decoder_width)
        nn.init.constant_(self.norm.weight, embedding_scale)

    def forward(self, vectors: Tensor, token_embeddings: Tensor | None = None) -> Tensor:
        """Projects chunk vectors.

        Args:
            vectors: Chunk vectors, shape (..., d_enc).
            token_embeddings: As for ``TokenProjector``; unused.

        Returns:
            Chunk embeddings, shape (..., d_dec).
        """
        return self.norm(self.mlp(vectors))


class TokenProjector(nn.Module):
    """Maps chunk vectors and the chunks' tokens into the decoder's embedding space.

    It adds up two terms. The token mix is the embedding of the chunk's j-th token from the end
    times a learned matrix W_j, summed over j. Untrained it is the last token, whose states are
    closest to those that a chunk embedding should have (``context_alignment`` of training), plus
    the other tokens with half its weight, each as the sum of itself and a random rotation of
    itself: the decoder can read the unrotated half at once, and the rotation tells the token's
    position. A mix that began with the last token alone hardly learnt to pass on the others. The
    two-layer MLP (paper, appendix B.2) reads the chunk vector and the same tokens: what a decoder's
    first layers make of neighbouring tokens, such as the parts of a word, is not a sum of linear
    maps of them.

    Args:
        encoder_width: Width of a chunk vector (d_enc).
        decoder_width: Width of a decoder embedding (d_dec).
        max_chunk_size: Largest number of tokens per chunk.
        hidden: Width of the hidden layer.
        embedding_scale: Standard deviation of the token embeddings that the decoder's layers
            receive.
    """

    def __init__(
        self,
        encoder_width: int,
        decoder_width: int,
        *,
        max_chunk_size: int,
        hidden: int,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = embedding_scale
        identity = torch.eye(decoder_width)
        mix = torch.empty(max_chunk_size, decoder_width, decoder_width)
        for matrix in mix:
            nn.init.orthogonal_(matrix)
        mix = _TOKEN_WEIGHT * (identity + mix) / 2**0.5
        mix[-1] = identity
        self.mix = nn.Parameter(mix)
        self.vector = nn.Linear(encoder_width, hidden)
        self.tokens = nn.Parameter(torch.empty(max_chunk_size, decoder_width, hidden))
        nn.init.normal_(self.tokens, std=(3 * max_chunk_size * decoder_width) ** -0.5)
        self.out = nn.Linear(hidden, decoder_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.norm = nn.LayerNorm(decoder_width)
        nn.init.constant_(self.norm.weight, embedding_scale)

    def forward(self, vectors: Tensor, token_embeddings: Tensor | None = None) -> Tensor:
        """Projects chunk vectors.

        Args:
            vectors: Chunk vectors, shape (..., d_enc).
            token_embeddings: Embeddings of the chunks' tokens, shape (..., k, d_dec), zero after
                the last token of a short chunk.

        Returns:
            Chunk embeddings, shape (..., d_dec).
        """
        if token_embeddings is None:
            msg = "this projector reads the chunks' tokens; pass token_embeddings"
            raise ValueError(msg)
        k = token_embeddings.shape[-2]
        read = _to_the_end(token_embeddings).flatten(-2) / self.scale
        hidden = self.vector(vectors) + read @ self.tokens[-k:].flatten(0, 1)
        mixed = read @ self.mix[-k:].flatten(0, 1)
        return self.norm(mixed + self.out(nn.functional.gelu(hidden)))


class RungProjector(nn.Module):
    """Maps the vectors of g consecutive chunks of a passage to one chunk embedding.

        e = rms_norm(lin c + out gelu(up c)) gain,  c the g chunk vectors one after another

    It reads nothing else: all that a chunk embedding tells of the tokens is in the chunk vectors.
    Untrained it returns the last chunk's vector and, after ``randomise``, adds a random mix of all.

    Args:
        width: Width of a chunk vector and of a decoder embedding.
        group: Chunks that become one position (g).
        embedding_scale: Standard deviation of the token embeddings that the decoder's layers
            receive.
    """

    def __init__(self, width: int, group: int, *, embedding_scale: float = 1.0) -> None:
        super().__init__()
        self.group = group
        self.lin = nn.Linear(group * width, width, bias=False)
        self.up = nn.Linear(group * width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.lin.weight[:, -width:].fill_diagonal_(1)
        self.gain = nn.Parameter(torch.full((width,), embedding_scale))

    @torch.no_grad()
    def randomise(self) -> None:
        """Adds the random part of an untrained projector, once, before its training."""
        self.lin.weight += _ROTATED_WEIGHT * nn.init.orthogonal_(torch.empty_like(self.lin.weight))
        self.up.reset_parameters()

    def forward(self, vectors: Tensor) -> Tensor:
        """Projects groups of chunk vectors.

        Args:
            vectors: Chunk vectors, shape (..., group, width), zero after a passage's last chunk.

        Returns:
            Chunk embeddings, shape (..., width).
        """
        read = vectors.flatten(-2)
        mixed = self.lin(read) + self.out(nn.functional.gelu(self.up(read)))
        return nn.functional.rms_norm(mixed, mixed.shape[-1:], eps=_EPS) * self.gain


class Ladder(nn.ModuleDict):
    """A ``RungProjector`` for each rung, keyed by its number of tokens.

    Args:
        chunk_size: Tokens per chunk (k).
        rungs: Multiples of k.
        width: Width of a chunk vector and of a decoder embedding.
        embedding_scale: Standard deviation of the token embeddings that the decoder's layers
            receive.
    """

    def __init__(
        self, chunk_size: int, rungs: Sequence[int], width: int, embedding_scale: float
    ) -> None:
        super().__init__(
            {
                str(rung): RungProjector(width, rung // chunk_size, embedding_scale=embedding_scale)
                for rung in rungs
            }
        )

    def forward(self, vectors: Tensor, rung: int) -> Tensor:
        """Projects the chunks of passages that have only whole groups.

        Args:
            vectors: Chunk vectors, shape (..., chunks, width), zero for chunks that a passage does
                not have; the number of chunks is a multiple of the rung's group.
            rung: Tokens per chunk embedding.

        Returns:
            Chunk embeddings, shape (..., chunks / group, width).
        """
        projector: Any = self[str(rung)]
        embeddings: Tensor = projector(vectors.unflatten(-2, (-1, projector.group)))
        return embeddings

    def randomise(self) -> None:
        """Adds the random parts of untrained projectors, once, before their training."""
        projectors: list[Any] = list(self.values())
        for projector in projectors:
            projector.randomise()


def whole_groups(vectors: Tensor, counts: Sequence[int], group: int) -> Tensor:
    """Fills up each passage with zeros to a multiple of ``group`` chunks.

    Args:
        vectors: Chunk vectors of passages in order, shape (chunks, width).
        counts: Chunks of each passage; their sum is the number of vectors.
        group: Chunks per group.

    Returns:
        Shape (chunks, width) with as many or more chunks.
    """
    if group == 1:
        return vectors
    sizes = torch.tensor(counts, dtype=torch.long)
    padded = -(-sizes // group) * group
    shift = (padded.cumsum(0) - padded) - (sizes.cumsum(0) - sizes)
    target = torch.arange(len(vectors)) + shift.repeat_interleave(sizes)
    rows = vectors.new_zeros(int(padded.sum()), vectors.shape[-1])
    return rows.index_copy(0, target.to(vectors.device), vectors)


def _to_the_end(tokens: Tensor) -> Tensor:
    """Moves the tokens of short chunks to the end, so that the last token is always at k - 1."""
    k = tokens.shape[-2]
    from_the_end = tokens.ne(0).any(dim=-1).flip(-1).cumsum(dim=-1)
    missing = from_the_end.eq(0).sum(dim=-1, keepdim=True)  # after the last token
    source = torch.arange(k, device=tokens.device) - missing
    moved = tokens.gather(-2, source.clamp(min=0).unsqueeze(-1).expand_as(tokens))
    return moved * (source >= 0).unsqueeze(-1)
