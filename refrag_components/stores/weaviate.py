"""Chunk vectors in Weaviate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.stores.common.client import ClientStore, client_errors, key_id, pages
from refrag_components.stores.common.rows import pack_text, unpack_text
from refrag_components.stores.common.url import (
    collection_of,
    password_of,
    split_options,
    split_url,
    without_password,
)
from refrag_components.vectors import ChunkVectors

try:
    import weaviate
    from weaviate.classes.config import Configure, DataType, Property
    from weaviate.classes.data import DataObject
    from weaviate.classes.init import Auth
    from weaviate.classes.query import Filter
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "WeaviateStore needs weaviate-client; "
        'install it with: pip install "refrag-components[weaviate]"'
    ) from error

__all__ = ["WeaviateStore"]

_PROPERTIES = {"key", "value"}
_KEYS_PER_PAGE = 1000


class WeaviateStore(ClientStore[weaviate.WeaviateClient]):
    """Keeps chunk vectors in a collection of the user's Weaviate. Experimental.

    Experimental, because it has never been run against a server: its tests use a stand-in for
    the client.

    A passage is an object: its id is a hash of the key, and the serialised value is a blob
    property, which is stored and not indexed. Named vectors would not do: a name holds one vector
    per object, and the lists of vectors that newer servers take are float32 in memory and always
    indexed for search, know no other codec and carry no checksum.

    ``mset`` sends 64 objects per request: each passage is stored whole or not at all, but a process
    that is killed may have stored some of a batch. Tenants that must not see each other get
    one collection each.

    Args:
        client: The user's client, connected.
        collection: The collection, created if missing; begins with a capital letter;
            ``RefragChunkVectors`` if None.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.

    Raises:
        StoreError: If Weaviate cannot be reached, or the collection holds something else.
    """

    _database = "Weaviate"
    _default_collection = "RefragChunkVectors"
    _advice = "check the server and the connection"

    def _open(self) -> None:
        with self._errors():
            if not self.client.collections.exists(self.collection):
                self._create()
            self._collection: Any = self.client.collections.use(self.collection)
            properties = self._collection.config.get(simple=True).properties
        if {found.name for found in properties} != _PROPERTIES:
            raise StoreError(f"{self.label} holds something else; choose another collection")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``weaviate://host:8080/Collection``.

        The API key is the URL's password, ``weaviate://:KEY@host/Collection``, or the environment
        variable ``WEAVIATE_API_KEY``. Options: ``codec``, ``grpc_port`` (50051), and
        ``https=true`` for encrypted connections.
        """
        rest, options = split_options(url, "codec", "timeout", "grpc_port", "https")
        secure = options.pop("https", "false") == "true"
        grpc_port = options.pop("grpc_port", "50051")
        parts = split_url(rest)
        host = parts.hostname
        if not host or parts.query or not grpc_port.isdecimal():
            msg = f"{without_password(url)} must look like weaviate://host:8080/Collection"
            raise StoreError(msg)
        key = password_of(parts, "WEAVIATE_API_KEY")
        with client_errors(f"Weaviate at {host}", cls._advice):
            client = weaviate.connect_to_custom(
                http_host=host,
                http_port=parts.port or 8080,
                http_secure=secure,
                grpc_host=host,
                grpc_port=int(grpc_port),
                grpc_secure=secure,
                auth_credentials=Auth.api_key(key) if key else None,
            )
        return cls._owning(client, collection=collection_of(parts), **options)

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        by_id = {key_id(key): key for key in keys}
        values: dict[str, ChunkVectors | None] = {}
        for page in pages(by_id):
            with self._errors():
                found = self._collection.query.fetch_objects_by_ids(
                    page, limit=len(page), return_properties=["value"]
                )
            for item in found.objects:
                key = by_id[item.uuid]
                values[key] = self._read(key, unpack_text, item.properties.get("value"))
        return [values.get(key) for key in keys]

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        texts = {key: pack_text(key, value, self.codec) for key, value in pairs}
        for page in pages(texts):
            objects = [
                DataObject(properties={"key": key, "value": texts[key]}, uuid=key_id(key))
                for key in page
            ]
            with self._errors():
                done = self._collection.data.insert_many(objects)
            if done.has_errors:
                first = next(iter(done.errors.values()))
                raise StoreError(f"{self.label} refused {len(done.errors)} passages: {first}")

    def _mdelete(self, keys: Sequence[str]) -> None:
        for page in pages(dict.fromkeys(key_id(key) for key in keys)):
            with self._errors():
                done = self._collection.data.delete_many(where=Filter.by_id().contains_any(page))
            if done.failed:
                raise StoreError(f"{self.label} did not delete {done.failed} passages; try again")

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        objects = self._collection.iterator(return_properties=["key"], cache_size=_KEYS_PER_PAGE)
        remaining = iter(objects)
        while True:
            with self._errors():
                item = next(remaining, None)
            if item is None:
                return
            key = item.properties["key"]
            if key.startswith(prefix or ""):
                yield key

    def _create(self) -> None:
        try:
            self.client.collections.create(
                self.collection,
                properties=[
                    Property(
                        name="key",
                        data_type=DataType.TEXT,
                        index_filterable=False,
                        index_searchable=False,
                    ),
                    Property(name="value", data_type=DataType.BLOB),
                ],
                vector_config=Configure.Vectors.self_provided(),
            )
        except Exception:  # unless another process was faster
            if not self.client.collections.exists(self.collection):
                raise
