"""Chunk vectors, which are computed once, stored and looked up.

Imported when first used, because the command line needs only the codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refrag_components._lazy import hand_on

if TYPE_CHECKING:
    from refrag_components.vectors.chunk_vectors import (
        ChunkVectors,
        padded_token_ids,
        passage_key,
        unit_rows,
    )
    from refrag_components.vectors.codecs import CODECS, Codec, VectorCodec, codec_named

__all__ = [
    "CODECS",
    "ChunkVectors",
    "Codec",
    "VectorCodec",
    "codec_named",
    "padded_token_ids",
    "passage_key",
    "unit_rows",
]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "CODECS": "codecs",
        "ChunkVectors": "chunk_vectors",
        "Codec": "codecs",
        "VectorCodec": "codecs",
        "codec_named": "codecs",
        "padded_token_ids": "chunk_vectors",
        "passage_key": "chunk_vectors",
        "unit_rows": "chunk_vectors",
    },
)
