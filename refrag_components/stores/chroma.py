"""Chunk vectors in Chroma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.stores.common.client import ClientStore, client_errors, pages
from refrag_components.stores.common.rows import pack_text, unpack_text
from refrag_components.stores.common.url import (
    collection_of,
    local_path,
    split_options,
    split_url,
    without_password,
)
from refrag_components.vectors import ChunkVectors

try:
    import chromadb
    from chromadb.api import ClientAPI
    from chromadb.config import Settings
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'ChromaStore needs chromadb; install it with: pip install "refrag-components[chroma]"'
    ) from error

__all__ = ["ChromaStore"]

_MARK = {"content": "refrag chunk vectors"}
_VALUE = "value"
_KEYS_PER_PAGE = 1000


class ChromaStore(ClientStore[ClientAPI]):
    """Keeps chunk vectors in a collection of the user's Chroma.

    A passage is a record: its id is the key, and the serialised value is a text (base64) in its
    metadata. Chroma has one embedding per record, float32 and always indexed, so a record for every
    chunk would take more room and memory than the codecs save, and a passage could be
    stored in part. A document would be indexed for full-text search. The record's own embedding is
    a placeholder, the same for all. Metadata is stored three times (value, index, log): count three
    to four times what the codec takes. Chroma Cloud limits metadata to 4 kB, which is too little
    for a passage.

    ``mset`` sends 64 records per request: each passage is stored whole or not at all, but a process
    that is killed may have stored some of a batch. Only one process at a time may use a folder;
    several need a Chroma server. Tenants that must not see each other get one collection each, or
    one of Chroma's own tenants each, which the client is made for.

    Args:
        client: The user's client.
        collection: The collection, created if missing; ``refrag_chunk_vectors`` if None.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.

    Raises:
        StoreError: If Chroma cannot be reached, or the collection holds something else.
    """

    _database = "Chroma"
    _advice = "check the server, or that the folder is complete and writable"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``chroma:///path``, created if missing, or ``chroma://host:8000/collection``.

        Options: ``codec`` and, for a path, ``collection``. For servers with authentication, pass
        your own client to the class.
        """
        settings = Settings(anonymized_telemetry=False)
        rest, options = split_options(url, "codec", "timeout")
        parts = split_url(rest)
        if parts.netloc:
            if parts.query:
                msg = f"{without_password(url)} has an option other than codec; remove it"
                raise StoreError(msg)
            options["collection"] = collection_of(parts)
            host, port = parts.hostname or "", parts.port or 8000
            with client_errors(f"Chroma at {host}:{port}", cls._advice):
                client = chromadb.HttpClient(host=host, port=port, settings=settings)
        else:
            path, named = local_path(rest, "collection")
            options |= named
            with client_errors(f"Chroma in {path}", cls._advice):
                client = chromadb.PersistentClient(path=path, settings=settings)
        return cls._owning(client, **options)

    def _open(self) -> None:
        with self._errors():
            self._collection: Any = self.client.get_or_create_collection(
                self.collection, metadata=dict(_MARK), embedding_function=None
            )
        if self._collection.metadata != _MARK:
            raise StoreError(f"{self.label} holds something else; choose another collection")

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        values: dict[str, ChunkVectors | None] = {}
        for page in pages(dict.fromkeys(keys)):
            with self._errors():
                found = self._collection.get(ids=page, include=["metadatas"])
            for key, metadata in zip(found["ids"], found["metadatas"] or [], strict=True):
                values[key] = self._read(key, unpack_text, (metadata or {}).get(_VALUE))
        return [values.get(key) for key in keys]

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        texts = {key: pack_text(key, value, self.codec) for key, value in pairs}
        for page in pages(texts):
            with self._errors():
                self._collection.upsert(
                    ids=page,
                    embeddings=[[0.0]] * len(page),
                    metadatas=[{_VALUE: texts[key]} for key in page],
                )

    def _mdelete(self, keys: Sequence[str]) -> None:
        for page in pages(dict.fromkeys(keys)):
            with self._errors():
                self._collection.delete(ids=page)

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        start = 0
        while True:
            with self._errors():
                page = self._collection.get(include=[], limit=_KEYS_PER_PAGE, offset=start)["ids"]
            yield from (key for key in page if key.startswith(prefix or ""))
            if len(page) < _KEYS_PER_PAGE:
                return
            start += len(page)
