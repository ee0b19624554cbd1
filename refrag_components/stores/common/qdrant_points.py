"""Chunk vectors as parts of a Qdrant point: a multivector and a payload."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.exceptions import CorruptVectorsError
from refrag_components.vectors import ChunkVectors, Codec

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["CHUNKS", "point_parts", "read_point", "turns"]

#: Name of the multivector.
CHUNKS = "chunks"


def turns(client: QdrantClient) -> AbstractContextManager[Any]:
    """What calls of a client stand in: a lock in its local mode, which threads must not share."""
    local = client.init_options["path"] or client.init_options["location"] == ":memory:"
    return threading.RLock() if local else nullcontext()


def point_parts(
    key: str, value: ChunkVectors, codec: Codec
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """The named vectors and the payload that hold a value; a checksum binds both to the key.

    Args:
        key: Of the passage.
        value: Its chunk vectors.
        codec: Values as stored, "float32" or "float16".

    Raises:
        InvalidVectorsError: If the value does not fit the codec.
    """
    data = value.to_bytes(codec)
    stored = ChunkVectors.from_bytes(data)
    payload = {
        "key": key,
        "token_ids": stored.token_ids.tolist(),
        "fingerprint": stored.fingerprint,
        "chunk_size": stored.chunk_size,
        "width": stored.width,
        "codec": codec,
        "checksum": _checksum(key, data),
    }
    # A passage without tokens has no vectors, and Qdrant takes no empty multivector.
    return {CHUNKS: stored.vectors.tolist()} if stored.n_chunks else {}, payload


def read_point(key: str, payload: Mapping[str, Any], vectors: Any) -> ChunkVectors:
    """The value of a point; its checksum is computed again from every part of it.

    Args:
        key: The key under which the point was looked for.
        payload: The point's payload.
        vectors: Its named vectors.

    Raises:
        CorruptVectorsError: If the point is damaged or another key's.
    """
    try:
        rows = np.array(vectors.get(CHUNKS) or [], dtype=np.float32)
        value = ChunkVectors(
            rows.reshape(-1, payload["width"]),
            np.array(payload["token_ids"], dtype=np.int64),
            payload["chunk_size"],
            payload["fingerprint"],
        )
        intact = _checksum(key, value.to_bytes(payload["codec"])) == payload["checksum"]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptVectorsError(f"its parts do not fit together: {error}") from error
    if not intact:
        raise CorruptVectorsError("it was altered, or is another key's")
    return value


def _checksum(key: str, data: bytes) -> str:
    return hashlib.blake2b(data + key.encode(), digest_size=16).hexdigest()
