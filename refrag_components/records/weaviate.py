"""Records in Weaviate."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.records.base import (
    CANDIDATES,
    FoundRecord,
    OfTenant,
    Record,
    found_record,
    question,
    tenant_id,
)
from refrag_components.records.maxsim import pack_tokens, ranking
from refrag_components.stores.common.client import client_errors, key_id, pages
from refrag_components.stores.common.rows import pack_text, unpack_text

try:
    from weaviate import WeaviateClient
    from weaviate.classes.config import Configure, DataType, Property, VectorDistances
    from weaviate.classes.data import DataObject
    from weaviate.classes.query import Filter, MetadataQuery
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "WeaviateRecords needs weaviate-client; "
        'install it with: pip install "refrag-components[weaviate]"'
    ) from error

__all__ = ["WeaviateRecords"]

_PASSAGE = "passage"
_TOKENS = "tokens"
_PROPERTIES = ["key", "text", "metadata", "chunks"]  # read in every search
_ADVICE = "check the server, its log and the collection"
_PER_REQUEST = 16  # 256 token vectors of width 384 are 262 kB; servers take 100 MB of a message


class WeaviateRecords(OfTenant):
    """Keeps records in a collection of the user's Weaviate. Experimental.

    Experimental, because it has never been run against a server, which no package brings: its tests
    answer the client's requests as the source of Weaviate does.

    A record is an object: the named vector "passage" is indexed, by HNSW, and everything else is a
    property that is not. Chunk vectors and token vectors are blobs, serialised with a checksum or
    as ``quantised`` says, because Weaviate's own multivectors are float32 in memory, always
    indexed, and searched among all objects and not among candidates. A search is one request. Late
    interaction brings the candidates' token vectors along and compares them here: 26 MB of 100
    candidates with 256 tokens, or 1.6 MB with ``quantised``.

    Tenants are Weaviate's: each has a shard of its own, is created with its first record and, where
    the user has put it to rest, woken when it is asked for.

    Args:
        client: The user's client, connected; it stays open.
        collection: The collection, created with the first records if missing; begins with a
            capital letter.
        tenant: Whose records are written and read.
        quantised: Whether token vectors are stored as one bit per value, the same for all records
            of a collection, and whether a new collection's index compares passage vectors rotated
            and rounded to 8 bits (Weaviate's rotational quantisation) before it looks at others.
    """

    def __init__(
        self,
        client: WeaviateClient,
        *,
        collection: str = "RefragRecords",
        tenant: str = "",
        quantised: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection
        self._quantised = quantised
        self._label = f"Weaviate collection {collection}"
        self.tenant = tenant

    def put(self, records: Sequence[Record]) -> None:
        """Stores records, 16 per request; each is stored whole or not at all."""
        objects = {record.key: self._object(record) for record in records}
        if not objects:
            return
        with client_errors(self._label, _ADVICE):
            if not self._client.collections.exists(self._collection):
                self._create()
            for page in pages(objects.values(), _PER_REQUEST):
                done = self._own().data.insert_many(page)
                if done.has_errors:
                    first = next(iter(done.errors.values())).message
                    raise StoreError(f"{self._label} refused {len(done.errors)} records: {first}")

    def search(
        self,
        vector: np.ndarray,
        token_vectors: np.ndarray | None = None,
        *,
        k: int = 10,
        candidates: int = CANDIDATES,
    ) -> list[FoundRecord]:
        """Finds passages, with their chunk vectors, in one request."""
        vector, tokens = question(vector, token_vectors)
        with client_errors(self._label, _ADVICE):
            try:
                objects = (
                    self._own()
                    .query.near_vector(
                        vector.tolist(),
                        target_vector=_PASSAGE,
                        limit=k if tokens is None else candidates,
                        return_metadata=MetadataQuery(distance=True),
                        return_properties=_PROPERTIES + [_TOKENS] * (tokens is not None),
                    )
                    .objects
                )
            except Exception:  # asked only then, so that a search is one request
                if not self._is_there():
                    return []
                raise
        best = ranking(
            self._label,
            [1 - each.metadata.distance for each in objects],
            tokens,
            [each.properties.get(_TOKENS) or None for each in objects],
            quantised=self._quantised,
        )
        return [self._found(objects[i].properties, score) for i, score in best[:k]]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        with client_errors(self._label, _ADVICE):
            if not keys or not self._is_there():
                return
            for page in pages(dict.fromkeys(map(key_id, keys))):
                done = self._own().data.delete_many(where=Filter.by_id().contains_any(page))
                if done.failed:
                    msg = f"{self._label} did not delete {done.failed} records; try again"
                    raise StoreError(msg)

    @property
    def _shard(self) -> str:
        """A tenant may have any name, and Weaviate's may not."""
        return tenant_id(self.tenant)

    def _own(self) -> Any:
        return self._client.collections.use(self._collection).with_tenant(self._shard)

    def _is_there(self) -> bool:
        """Whether the tenant has ever stored anything."""
        collections = self._client.collections
        if not collections.exists(self._collection):
            return False
        return bool(collections.use(self._collection).tenants.exists(self._shard))

    def _create(self) -> None:
        def text(name: str) -> Property:
            return Property(
                name=name, data_type=DataType.TEXT, index_filterable=False, index_searchable=False
            )

        quantizer = Configure.VectorIndex.Quantizer
        try:
            self._client.collections.create(
                self._collection,
                properties=[
                    *map(text, ("key", "text", "metadata")),
                    *(Property(name=name, data_type=DataType.BLOB) for name in ("chunks", _TOKENS)),
                ],
                multi_tenancy_config=Configure.multi_tenancy(
                    auto_tenant_creation=True, auto_tenant_activation=True
                ),
                vector_config=Configure.Vectors.self_provided(
                    name=_PASSAGE,
                    quantizer=quantizer.rq(bits=8) if self._quantised else quantizer.none(),
                    vector_index_config=Configure.VectorIndex.hnsw(
                        distance_metric=VectorDistances.COSINE
                    ),
                ),
            )
        except Exception:  # unless another process was faster
            if not self._client.collections.exists(self._collection):
                raise

    def _object(self, record: Record) -> DataObject[Any, Any]:
        properties = {
            "key": record.key,
            "text": record.text,
            "metadata": json.dumps(dict(record.metadata)),
            "chunks": pack_text(record.key, record.chunk_vectors, "float16"),
        }
        if record.token_vectors is not None:
            packed = pack_tokens(record.token_vectors, quantised=self._quantised)
            properties[_TOKENS] = base64.b64encode(packed).decode()
        vectors = {_PASSAGE: record.vector.tolist()}
        return DataObject(uuid=key_id(record.key), properties=properties, vector=vectors)

    def _found(self, properties: dict[str, Any], score: float) -> FoundRecord:
        return found_record(
            self._label,
            text=properties["text"],
            score=score,
            key=properties["key"],
            metadata=properties.get("metadata"),
            read=lambda key: unpack_text(key, properties.get("chunks")),
        )
