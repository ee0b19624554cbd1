"""Chunk vectors in Qdrant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.stores.common.client import ClientStore, key_id, pages
from refrag_components.stores.common.limits import seconds
from refrag_components.stores.common.qdrant_files import check_pickles
from refrag_components.stores.common.qdrant_points import CHUNKS, point_parts, read_point, turns
from refrag_components.stores.common.url import (
    collection_of,
    local_path,
    password_of,
    split_options,
    split_url,
)
from refrag_components.vectors import CODECS, ChunkVectors, Codec

try:
    from qdrant_client import QdrantClient, models
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'QdrantStore needs qdrant-client; install it with: pip install "refrag-components[qdrant]"'
    ) from error

__all__ = ["QdrantStore"]

_DATATYPES = {
    name: models.Datatype(codec.dtype)
    for name, codec in CODECS.items()
    if codec.dtype in [datatype.value for datatype in models.Datatype]
}
_KEYS_PER_PAGE = 1000


class QdrantStore(ClientStore[QdrantClient]):
    """Keeps chunk vectors in a collection of the user's Qdrant.

    A passage is a point: its chunk vectors are the named multivector "chunks", which is stored
    but not indexed; key, token ids, fingerprint, chunk size and a checksum of everything are its
    payload. The distance is the dot product, since with the cosine the server would
    normalise what it stores. A collection has vectors of one width and is created with the first of
    them. Tenants that must not see each other get one collection each.

    ``mset`` sends 64 points per request: each passage is stored whole or not at all, but a process
    that is killed may have stored some of a batch.

    Where the client runs the database itself (":memory:" or a path), threads take turns and one
    process at a time may use it. The client keeps such files pickled; ``from_url`` opens them only
    if they hold nothing but data, but a client that you make yourself runs what they name.

    Args:
        client: The user's client.
        collection: The collection, created if missing; ``refrag_chunk_vectors`` if None.
        codec: Values as stored: "float32" or "float16". Qdrant has no counterpart of the others.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.

    Raises:
        StoreError: If the collection exists but has another codec or is not one of chunk vectors.
    """

    _database = "Qdrant"
    _advice = "check the server and its log"

    def __init__(
        self,
        client: QdrantClient,
        *,
        collection: str | None = None,
        codec: Codec = "float16",
        timeout: float = 5.0,
    ) -> None:
        if codec not in _DATATYPES:
            raise ValueError(f"Qdrant stores vectors as {' or '.join(_DATATYPES)}, not {codec!r}")
        self._turn = turns(client)
        self._width = 0  # of the collection's vectors; 0 until there is a collection
        super().__init__(client, collection=collection, codec=codec, timeout=timeout)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``qdrant://host:6333/collection`` or, embedded, ``qdrant:///path``.

        The API key is the URL's password, ``qdrant://:KEY@host/collection``, or the environment
        variable ``QDRANT_API_KEY``; with one the connection is encrypted, unless the URL ends in
        ``?https=false``. Options: ``codec`` and, for a path, ``collection``.
        """
        rest, options = split_options(url, "codec", "timeout", "https")
        encrypted = options.pop("https", None)
        parts = split_url(rest)
        if not parts.netloc:
            path, named = local_path(rest, "collection")
            check_pickles(Path(path))
            try:
                client = QdrantClient(path=path, force_disable_check_same_thread=True)
            except Exception as error:
                raise StoreError(f"{path} cannot be opened: {error}") from error
            options |= named
        else:
            if encrypted not in (None, "false") or parts.query:
                raise ValueError("the options are codec and https=false")
            client = QdrantClient(
                host=parts.hostname,
                port=parts.port or 6333,
                api_key=password_of(parts, "QDRANT_API_KEY"),
                https=None if encrypted is None else False,
                timeout=math.ceil(seconds(options.get("timeout", 5.0))),
            )
            options["collection"] = collection_of(parts)
        return cls._owning(client, **options)

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        distinct = list(dict.fromkeys(keys))
        values: dict[str, ChunkVectors | None] = {}
        with self._errors():
            if not self._look():
                return [None] * len(keys)
            points = [
                point
                for page in pages(distinct)
                for point in self.client.retrieve(
                    self.collection, [_point_id(key) for key in page], with_vectors=[CHUNKS]
                )
            ]
        found = {str(point.id): point for point in points}
        for key in distinct:
            if (point := found.get(_point_id(key))) is not None:
                values[key] = self._read(key, read_point, point.payload or {}, point.vector or {})
        return [values.get(key) for key in keys]

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        values = dict(pairs)
        points = [self._point(key, value) for key, value in values.items()]
        if not points:
            return
        with self._errors():
            if not self._look():
                self._create(next(iter(values.values())).width)
            for value in values.values():
                if value.width != self._width:
                    msg = (
                        f"{self.label} has vectors of width {self._width}, not {value.width}; give "
                        "this model its own collection"
                    )
                    raise StoreError(msg)
            for page in pages(points):
                self.client.upsert(self.collection, page)

    def _mdelete(self, keys: Sequence[str]) -> None:
        with self._errors():
            if keys and self._look():
                ids: list[Any] = [_point_id(key) for key in keys]
                self.client.delete(self.collection, models.PointIdsList(points=ids))

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        offset: Any = None
        while True:
            with self._errors():
                if not self._look():
                    return
                points, offset = self.client.scroll(
                    self.collection, limit=_KEYS_PER_PAGE, offset=offset, with_payload=["key"]
                )
            keys = [(point.payload or {}).get("key") for point in points]
            yield from (k for k in keys if isinstance(k, str) and k.startswith(prefix or ""))
            if offset is None:
                return

    def _open(self) -> None:
        with self._errors():
            self._look()

    def _look(self) -> bool:
        """Whether the collection exists; if so, checks once that it is ours."""
        if not self._width and self.client.collection_exists(self.collection):
            vectors = self.client.get_collection(self.collection).config.params.vectors
            ours = vectors.get(CHUNKS) if isinstance(vectors, dict) else None
            if ours is None or ours.datatype != _DATATYPES[self.codec]:
                msg = (
                    f"{self.label} does not hold {self.codec} chunk vectors; choose another "
                    "collection, or the codec that it was made with"
                )
                raise StoreError(msg)
            self._width = ours.size
        return self._width > 0

    def _create(self, width: int) -> None:
        settings = models.VectorParams(
            size=width,
            distance=models.Distance.DOT,
            datatype=_DATATYPES[self.codec],
            hnsw_config=models.HnswConfigDiff(m=0),
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            on_disk=True,
        )
        try:
            self.client.create_collection(
                self.collection, vectors_config={CHUNKS: settings}, on_disk_payload=True
            )
        except Exception:  # unless another process was faster
            if not self._look():
                raise
        self._look()

    def _point(self, key: str, value: ChunkVectors) -> models.PointStruct:
        vectors: Any
        vectors, payload = point_parts(key, value, self.codec)
        return models.PointStruct(id=_point_id(key), vector=vectors, payload=payload)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Takes a turn."""
        with self._turn, super()._errors():
            yield


def _point_id(key: str) -> str:
    return str(key_id(key))
