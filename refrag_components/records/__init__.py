"""Records: passage vector, chunk vectors and token vectors in one object of the user's database."""

from __future__ import annotations

from refrag_components.records.base import FoundRecord, Record, RecordCollection
from refrag_components.records.making import make_records

__all__ = ["FoundRecord", "Record", "RecordCollection", "make_records"]
