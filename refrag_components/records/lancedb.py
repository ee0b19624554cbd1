"""Records in LanceDB."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from refrag_components.exceptions import MissingExtraError
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
from refrag_components.stores.common.client import client_errors
from refrag_components.stores.common.rows import pack_row, unpack_row

try:
    import lancedb
    import pyarrow as pa
except ModuleNotFoundError as error:
    raise MissingExtraError(
        'LanceDBRecords needs lancedb; install it with: pip install "refrag-components[lancedb]"'
    ) from error

__all__ = ["LanceDBRecords"]

_ADVICE = "check that the table is not another program's and that its folder is whole and writable"
_PUTS_PER_COMPACTION = 50  # every put adds a file and a version, which readers pay for
_OLD = timedelta(seconds=10)  # versions that are older than any read takes


class LanceDBRecords(OfTenant):
    """Keeps records in tables of the user's LanceDB.

    A record is a row: the vector column "passage", the serialised chunk vectors with a checksum,
    and the token vectors. A search is one query. LanceDB runs in this process, and so does late
    interaction: what the query brings of the candidates is compared here. An index on "passage"
    that you make (``create_index``) is used by itself.

    Tenants are tables: each has its own, which costs nothing while it is not used.

    Args:
        database: The user's connection, from ``lancedb.connect``.
        table: The table of the tenant "", and what those of others begin with; created with the
            first records.
        tenant: Whose records are written and read.
        quantised: Whether token vectors are stored as one bit per value, 16 times smaller; as the
            table was created.
    """

    def __init__(
        self,
        database: lancedb.DBConnection,
        *,
        table: str = "refrag_records",
        tenant: str = "",
        quantised: bool = False,
    ) -> None:
        self._database = database
        self._table = table
        self._quantised = quantised
        self._writing = threading.Lock()
        self._puts = 0
        self.tenant = tenant

    @property
    def _name(self) -> str:
        """The tenant's table; a hash, since a tenant may have any name, and a table may not."""
        if not self.tenant:
            return self._table
        return f"{self._table}.{tenant_id(self.tenant)}"

    @property
    def _label(self) -> str:
        return f"LanceDB table {self._name} in {self._database.uri}"

    def put(self, records: Sequence[Record]) -> None:
        """Stores records in one version of the table."""
        rows = {record.key: record for record in records}
        if not rows:
            return
        width = len(records[0].vector)
        values = [self._row(record) for record in rows.values()]
        with self._writing, client_errors(self._label, _ADVICE):
            table = self._database.create_table(self._name, schema=_schema(width), exist_ok=True)
            merging = table.merge_insert("key").when_matched_update_all()
            merging.when_not_matched_insert_all().execute(
                pa.Table.from_pylist(values, schema=_schema(width))
            )
            self._puts += 1
            if self._puts % _PUTS_PER_COMPACTION == 0:
                table.optimize(cleanup_older_than=_OLD)

    def search(
        self,
        vector: np.ndarray,
        token_vectors: np.ndarray | None = None,
        *,
        k: int = 10,
        candidates: int = CANDIDATES,
    ) -> list[FoundRecord]:
        """Finds passages, with their chunk vectors, by one query."""
        vector, tokens = question(vector, token_vectors)
        columns = ["key", "text", "metadata", "chunks"]
        with client_errors(self._label, _ADVICE):
            table = self._open()
            if table is None:
                return []
            query = table.search(vector, vector_column_name="passage").distance_type("dot")
            query = query.select(
                [*columns, "_distance", *(["tokens"] if tokens is not None else [])]
            )
            rows = query.limit(k if tokens is None else candidates).to_arrow().to_pylist()
            best = ranking(
                self._label,
                [1 - row["_distance"] for row in rows],
                tokens,
                [row.get("tokens") for row in rows],
                quantised=self._quantised,
            )
        return [self._found(rows[i], score) for i, score in best[:k]]

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets records; unknown keys are ignored."""
        with self._writing, client_errors(self._label, _ADVICE):
            table = self._open() if keys else None
            if table is not None:
                quoted = ("'" + key.replace("'", "''") + "'" for key in keys)
                table.delete(f"key IN ({', '.join(quoted)})")

    def _row(self, record: Record) -> dict[str, Any]:
        tokens = record.token_vectors
        return {
            "key": record.key,
            "text": record.text,
            "metadata": json.dumps(dict(record.metadata)),
            "passage": record.vector,
            "chunks": pack_row(record.key, record.chunk_vectors, "float16"),
            "tokens": None if tokens is None else pack_tokens(tokens, quantised=self._quantised),
        }

    def _open(self) -> Any:
        """The tenant's table as it is now; None if there is none."""
        try:
            return self._database.open_table(self._name)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise

    def _found(self, row: dict[str, Any], score: float) -> FoundRecord:
        return found_record(
            self._label,
            text=row["text"],
            score=score,
            key=row["key"],
            metadata=row["metadata"],
            read=lambda key: unpack_row(key, row["chunks"]),
        )


def _schema(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("key", pa.string()),
            ("text", pa.string()),
            ("metadata", pa.string()),
            ("passage", pa.list_(pa.float32(), width)),
            ("chunks", pa.binary()),
            ("tokens", pa.binary()),
        ]
    )
