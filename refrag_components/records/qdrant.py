"""Records in Qdrant."""

from __future__ import annotations

import uuid
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
)
from refrag_components.stores.common.client import client_errors, key_id, pages
from refrag_components.stores.common.qdrant_points import CHUNKS, point_parts, read_point, turns

try:
    from qdrant_client import QdrantClient, models
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "QdrantRecords needs qdrant-client; "
        'install it with: pip install "refrag-components[qdrant]"'
    ) from error

__all__ = ["QdrantRecords"]

_PASSAGE = "passage"
_TOKENS = "tokens"
_TENANT = "tenant"
_ADVICE = "check the server, its log and the collection"
_PER_REQUEST = 16  # 256 token vectors of width 384 are some 2 MB as JSON; servers refuse 32 MB


class QdrantRecords(OfTenant):
    """Keeps records in a collection of the user's Qdrant.

    A record is a point: the named vector "passage", the multivectors "chunks", which is not
    indexed, and "tokens", which is compared by MaxSim; the rest is its payload. A search is one
    request, also by late interaction, where the server itself orders what "passage" found.

    Tenants are Qdrant's: a payload field with an index for tenants, and graphs for each of them
    alone. What belongs to a tenant is filtered by the server in every request.

    Args:
        client: The user's client; it stays open.
        collection: The collection, created with the first records if missing.
        tenant: Whose records are written and read.
        quantised: Whether a new collection keeps its token vectors in memory too, as one bit per
            value, to compare these before it reads others from its disk.
    """

    def __init__(
        self,
        client: QdrantClient,
        *,
        collection: str = "refrag_records",
        tenant: str = "",
        quantised: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection
        self._quantised = quantised
        self._label = f"Qdrant collection {collection}"
        self._turn = turns(client)
        self.tenant = tenant

    def put(self, records: Sequence[Record]) -> None:
        """Stores records, 16 per request; each is stored whole or not at all."""
        points = [self._point(record) for record in records]
        if not points:
            return
        with self._turn, client_errors(self._label, _ADVICE):
            if not self._client.collection_exists(self._collection):
                self._create(records[0])
            for page in pages(points, _PER_REQUEST):
                self._client.upsert(self._collection, page, wait=True)

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
        arguments: dict[str, Any] = {"query": vector.tolist(), "using": _PASSAGE}
        divisor = 1
        if tokens is not None:
            first = models.Prefetch(
                query=vector.tolist(), using=_PASSAGE, filter=self._own(), limit=candidates
            )
            arguments = {"prefetch": [first], "query": tokens.tolist(), "using": _TOKENS}
            divisor = len(tokens)
        with self._turn, client_errors(self._label, _ADVICE):
            try:
                points = self._client.query_points(
                    self._collection,
                    **arguments,
                    query_filter=self._own(),
                    limit=k,
                    with_payload=True,
                    with_vectors=[CHUNKS],
                ).points
            except Exception:  # asked only then, so that a search is one request
                if not self._client.collection_exists(self._collection):
                    return []
                raise
        return [self._found(point, divisor) for point in points]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        chosen: list[Any] = [self._id(key) for key in keys]
        with self._turn, client_errors(self._label, _ADVICE):
            if chosen and self._client.collection_exists(self._collection):
                self._client.delete(
                    self._collection, self._own(models.HasIdCondition(has_id=chosen))
                )

    def _create(self, record: Record) -> None:
        def unindexed(size: int, **others: Any) -> models.VectorParams:
            return models.VectorParams(
                size=size,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=0),
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                on_disk=True,
                **others,
            )

        bits = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        width = len(record.vector)
        settings = {
            # One graph per tenant, and none over all of them, which nobody searches.
            _PASSAGE: models.VectorParams(
                size=width,
                distance=models.Distance.DOT,  # not the cosine: all of length 1
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),
            ),
            CHUNKS: unindexed(record.chunk_vectors.width),
            _TOKENS: unindexed(width, quantization_config=bits if self._quantised else None),
        }
        try:
            self._client.create_collection(
                self._collection, vectors_config=settings, on_disk_payload=True
            )
        except Exception:  # unless another process was faster
            if not self._client.collection_exists(self._collection):
                raise
        self._client.create_payload_index(
            self._collection,
            _TENANT,
            models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
        )

    def _point(self, record: Record) -> models.PointStruct:
        chunks, payload = point_parts(record.key, record.chunk_vectors, "float16")
        vectors: dict[str, Any] = {**chunks, _PASSAGE: record.vector.tolist()}
        if record.token_vectors is not None:
            vectors[_TOKENS] = record.token_vectors.tolist()
        payload |= {
            _TENANT: self.tenant,
            "text": record.text,
            "metadata": dict(record.metadata),
        }
        return models.PointStruct(id=self._id(record.key), vector=vectors, payload=payload)

    def _found(self, point: models.ScoredPoint, divisor: int) -> FoundRecord:
        payload = point.payload or {}
        if payload.get(_TENANT) != self.tenant:  # what the filter is for
            raise StoreError(f"{self._label} returned a record of another tenant; {_ADVICE}")
        return found_record(
            self._label,
            text=payload["text"],
            score=point.score / divisor,
            key=payload["key"],
            metadata=payload.get("metadata"),
            read=lambda key: read_point(key, payload, point.vector or {}),
        )

    def _own(self, *others: models.Condition) -> models.Filter:
        value = models.MatchValue(value=self.tenant)
        return models.Filter(must=[models.FieldCondition(key=_TENANT, match=value), *others])

    def _id(self, key: str) -> str:
        """Another tenant's record of the same text is another point."""
        return str(uuid.uuid5(key_id(key), self.tenant))
