"""Records in Milvus."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from refrag_components.exceptions import CorruptVectorsError, MissingExtraError
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
from refrag_components.stores.common.client import client_errors, pages
from refrag_components.stores.common.rows import pack_text, unpack_text
from refrag_components.vectors import ChunkVectors

try:
    from pymilvus import DataType, MilvusClient
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "MilvusRecords needs pymilvus and milvus-lite; "
        'install them with: pip install "refrag-components[milvus]"'
    ) from error

__all__ = ["MilvusRecords"]

_ADVICE = "check the server, or that no other process has the file open; and the collection"
_PER_REQUEST = 16  # 256 token vectors of width 384 are 262 kB, and servers refuse 64 MB
_LONGEST_TEXT = 65_535  # bytes, of Milvus
_PART = 16_383  # characters, of up to four bytes each
_PART_OF_BASE64 = 65_532  # whole groups of four characters
_LONGEST_ARRAY = 4096  # texts, of Milvus


class MilvusRecords(OfTenant):
    """Keeps records in a collection of the user's Milvus, or in a Milvus Lite file.

    A record is a row: "passage" is a vector field with an index; text, chunk vectors and token
    vectors are arrays of texts (base64), because Milvus has no field for bytes and a text ends at
    64 kB. A search is one request. Late interaction brings the candidates' token vectors along and
    compares them here: from a server that is much to send, 26 MB of 100 candidates with 256 tokens,
    or 1.6 MB with ``quantised``.

    Tenants are Milvus's: the key by which it divides the collection into partitions.

    Args:
        client: The user's client; it stays open.
        collection: The collection, created with the first records if missing.
        tenant: Whose records are written and read.
        quantised: Whether token vectors are stored as one bit per value; the same for all records
            of a collection.
    """

    def __init__(
        self,
        client: MilvusClient,
        *,
        collection: str = "refrag_records",
        tenant: str = "",
        quantised: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection
        self._quantised = quantised
        self._label = f"Milvus collection {collection}"
        self.tenant = tenant

    def put(self, records: Sequence[Record]) -> None:
        """Stores records, 16 per request; each is stored whole or not at all."""
        rows = {record.key: self._row(record) for record in records}
        if not rows:
            return
        with client_errors(self._label, _ADVICE):
            if not self._client.has_collection(self._collection):
                self._create(len(records[0].vector))
            for page in pages(rows.values(), _PER_REQUEST):
                self._client.upsert(self._collection, page)

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
        fields = ["key", "text", "metadata", "chunks", *(["tokens"] if tokens is not None else [])]
        with client_errors(self._label, _ADVICE):
            try:
                (hits,) = self._client.search(
                    self._collection,
                    data=[vector.tolist()],
                    anns_field="passage",
                    filter=f'tenant == "{tenant_id(self.tenant)}"',
                    limit=k if tokens is None else candidates,
                    output_fields=fields,
                )
            except Exception:  # asked only then, so that a search is one request
                if not self._client.has_collection(self._collection):
                    return []
                raise
        rows = [dict(hit["entity"]) for hit in hits]
        packed = [row.get("tokens") for row in rows]
        best = ranking(
            self._label,
            [float(hit["distance"]) for hit in hits],
            tokens,
            ["".join(parts) if parts else None for parts in packed],
            quantised=self._quantised,
        )
        return [self._found(rows[i], score) for i, score in best[:k]]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        with client_errors(self._label, _ADVICE):
            if keys and self._client.has_collection(self._collection):
                self._client.delete(self._collection, ids=[self._id(key) for key in keys])

    def _id(self, key: str) -> str:
        """Another tenant's record of the same text is another row."""
        whole = f"{tenant_id(self.tenant)}{key}"
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()

    def _create(self, width: int) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("tenant", DataType.VARCHAR, max_length=32, is_partition_key=True)
        schema.add_field("key", DataType.VARCHAR, max_length=32)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("passage", DataType.FLOAT_VECTOR, dim=width)
        for name in ("text", "chunks", "tokens"):
            schema.add_field(
                name,
                DataType.ARRAY,
                element_type=DataType.VARCHAR,
                max_capacity=_LONGEST_ARRAY,
                max_length=_LONGEST_TEXT,
            )
        index = MilvusClient.prepare_index_params()
        index.add_index("passage", index_type="AUTOINDEX", metric_type="IP")
        try:
            # Strong: the next read of any process sees what another has written.
            self._client.create_collection(
                self._collection, schema=schema, index_params=index, consistency_level="Strong"
            )
        except Exception:  # unless another process was faster
            if not self._client.has_collection(self._collection):
                raise
        self._client.load_collection(self._collection)

    def _row(self, record: Record) -> dict[str, Any]:
        chunks = pack_text(record.key, record.chunk_vectors, "float16")
        tokens = ""
        if record.token_vectors is not None:
            packed = pack_tokens(record.token_vectors, quantised=self._quantised)
            tokens = base64.b64encode(packed).decode()
        return {
            "id": self._id(record.key),
            "tenant": tenant_id(self.tenant),
            "key": record.key,
            "metadata": dict(record.metadata),
            "passage": record.vector.tolist(),
            "text": _parts(record.text, _PART),
            "chunks": _parts(chunks, _PART_OF_BASE64),
            "tokens": _parts(tokens, _PART_OF_BASE64),
        }

    def _found(self, row: dict[str, Any], score: float) -> FoundRecord:
        def read(key: str) -> ChunkVectors:
            try:
                return unpack_text(key, *row["chunks"])
            except TypeError as error:
                raise CorruptVectorsError("it holds no value") from error

        return found_record(
            self._label,
            text="".join(row["text"]),
            score=score,
            key=row["key"],
            metadata=row["metadata"],
            read=read,
        )


def _parts(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
