"""Chunk vectors on their way over a network: safetensors in base64, never a pickle."""

from __future__ import annotations

import base64
import json

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from refrag_components.exceptions import InvalidVectorsError
from refrag_components.vectors.chunk_vectors import ChunkVectors

__all__ = ["from_transfer", "to_transfer"]

_NAMES = {"vectors", "token_ids"}


def to_transfer(vectors: ChunkVectors) -> str:
    """Chunk vectors as base64 of safetensors: "vectors" and "token_ids" (int32).

    Vectors travel in float16 where that is exact, as it is after encoding, else in float32.
    """
    with np.errstate(over="ignore"):
        half = vectors.vectors.astype(np.float16)
    exact = np.array_equal(half.astype(np.float32), vectors.vectors)
    about = {"chunk_size": str(vectors.chunk_size), "fingerprint": vectors.fingerprint}
    data = save(
        {"vectors": half if exact else vectors.vectors, "token_ids": vectors.token_ids},
        metadata=about,
    )
    return base64.b64encode(data).decode()


def from_transfer(text: str) -> ChunkVectors:
    """Reads what ``to_transfer`` wrote.

    Raises:
        InvalidVectorsError: If it is something else, or holds NaN or infinite values.
    """
    try:
        data = base64.b64decode(text, validate=True)
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        chunk_size, fingerprint = int(about["chunk_size"]), str(about["fingerprint"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            "chunk vectors must be the base64 of a safetensors file with the metadata chunk_size "
            f"and fingerprint: {error!r}"
        )
        raise InvalidVectorsError(msg) from error
    if set(tensors) != _NAMES:
        msg = f"the safetensors file must hold vectors and token_ids, it holds {sorted(tensors)}"
        raise InvalidVectorsError(msg)
    return ChunkVectors(tensors["vectors"], tensors["token_ids"], chunk_size, fingerprint)
