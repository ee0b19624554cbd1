"""Chunk vectors in Milvus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from refrag_components.exceptions import MissingExtraError, StoreError
from refrag_components.stores.common.client import ClientStore, client_errors, key_id, pages
from refrag_components.stores.common.rows import pack_text, unpack_text
from refrag_components.stores.common.url import (
    collection_of,
    local_path,
    password_of,
    split_options,
    split_url,
    without_password,
)
from refrag_components.vectors import ChunkVectors

try:
    from pymilvus import DataType, MilvusClient
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "MilvusStore needs pymilvus and milvus-lite; "
        'install them with: pip install "refrag-components[milvus]"'
    ) from error

__all__ = ["MilvusStore"]

_FIELDS = ("id", "key", "value", "placeholder")
_KEYS_PER_PAGE = 1000
_LONGEST_TEXT = 65_535  # bytes, of Milvus
_PART = 65_532  # whole groups of four characters, as in base64
_LONGEST_ARRAY = 4096  # texts, of Milvus


class MilvusStore(ClientStore[MilvusClient]):
    """Keeps chunk vectors in a collection of the user's Milvus, or in a Milvus Lite file.

    A passage is a row: its id is a hash of the key, and the serialised value is an array of texts
    (base64), because Milvus has no field for bytes and a text ends at 64 kB. A vector field
    has one vector per row, of one width, and is always indexed; it would know no other codec and
    carry no checksum. As a collection must have one, there is a placeholder of two zeros.

    ``mset`` sends 64 rows per request: each passage is stored whole or not at all, but a process
    that is killed may have stored some of a batch. A Milvus Lite file belongs to the process that
    opened it until that process ends; several need a Milvus server. Tenants that must not see
    each other get one collection or one database each.

    Args:
        client: The user's client.
        collection: The collection, created if missing; ``refrag_chunk_vectors`` if None.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.

    Raises:
        StoreError: If Milvus cannot be reached, or the collection holds something else.
    """

    _database = "Milvus"
    _advice = "check the server, or that no other process has the file open"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Opens ``milvus:///path.db`` (Milvus Lite) or ``milvus://host:19530/collection``.

        A server's token is the URL's password, ``milvus://:TOKEN@host/collection``, or the
        environment variable ``MILVUS_TOKEN``; the connection is encrypted with ``?https=true``.
        Options: ``codec`` and, for a path, ``collection``.
        """
        rest, options = split_options(url, "codec", "timeout", "https")
        scheme = "https" if options.pop("https", "false") == "true" else "http"
        parts = split_url(rest)
        if parts.netloc:
            if parts.query:
                msg = f"{without_password(url)} has options other than codec and https; remove them"
                raise StoreError(msg)
            options["collection"] = collection_of(parts)
            address = f"{scheme}://{parts.hostname}:{parts.port or 19530}"
            token = password_of(parts, "MILVUS_TOKEN") or ""
        else:
            address, named = local_path(rest, "collection")
            options |= named
            token = ""
            if not address.endswith(".db"):
                raise StoreError(f"{address} must end in .db for Milvus Lite to open it")
            with client_errors(f"Milvus at {address}", cls._advice):
                Path(address).parent.mkdir(parents=True, exist_ok=True)
        with client_errors(f"Milvus at {address}", cls._advice):
            client = MilvusClient(address, token=token)
        return cls._owning(client, **options)

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        by_id = {_row_id(key): key for key in keys}
        values: dict[str, ChunkVectors | None] = {}
        for page in pages(by_id):
            with self._errors():
                rows = self.client.get(self.collection, ids=page, output_fields=["id", "value"])
            for row in rows:
                key = by_id[row["id"]]
                values[key] = self._read(key, unpack_text, *(row["value"] or ()))
        return [values.get(key) for key in keys]

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        texts = {key: pack_text(key, value, self.codec) for key, value in pairs}
        for page in pages(texts):
            rows = [_row(key, texts[key]) for key in page]
            with self._errors():
                self.client.upsert(self.collection, rows)

    def _mdelete(self, keys: Sequence[str]) -> None:
        for page in pages(dict.fromkeys(_row_id(key) for key in keys)):
            with self._errors():
                self.client.delete(self.collection, ids=page)

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        with self._errors():
            pages = self.client.query_iterator(
                self.collection, batch_size=_KEYS_PER_PAGE, output_fields=["key"]
            )
        try:
            while True:
                with self._errors():
                    page = pages.next()
                if not page:
                    return
                keys = (row["key"] for row in page)
                yield from (key for key in keys if key.startswith(prefix or ""))
        finally:
            pages.close()

    def _open(self) -> None:
        with self._errors():
            self._create()
            self.client.load_collection(self.collection)

    def _create(self) -> None:
        """Creates the collection and its index, or whichever of them is missing."""
        if not self.client.has_collection(self.collection):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
            schema.add_field("key", DataType.VARCHAR, max_length=_LONGEST_TEXT)
            schema.add_field(
                "value",
                DataType.ARRAY,
                element_type=DataType.VARCHAR,
                max_capacity=_LONGEST_ARRAY,
                max_length=_LONGEST_TEXT,
            )
            schema.add_field("placeholder", DataType.FLOAT_VECTOR, dim=2)
            try:
                # Strong: the next read of any process sees what another has written.
                self.client.create_collection(
                    self.collection, schema=schema, consistency_level="Strong"
                )
            except Exception:  # unless another process was faster
                if not self.client.has_collection(self.collection):
                    raise
        fields = self.client.describe_collection(self.collection)["fields"]
        if tuple(field["name"] for field in fields) != _FIELDS:
            raise StoreError(f"{self.label} holds something else; choose another collection")
        if not self.client.list_indexes(self.collection):
            index = MilvusClient.prepare_index_params()
            index.add_index("placeholder", index_type="FLAT", metric_type="L2")
            self.client.create_index(self.collection, index, sync=False)


def _row(key: str, text: str) -> dict[str, Any]:
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    return {"id": _row_id(key), "key": key, "value": parts, "placeholder": [0.0, 0.0]}


def _row_id(key: str) -> str:
    """32 hexadecimal characters, so that no key can be taken for part of a filter."""
    return key_id(key).hex
