"""What fails a test if chunk vectors are made or looked up although they came with a passage."""

from __future__ import annotations

from typing import Any

from refrag_components.stores.memory import MemoryStore

__all__ = ["NoStore", "no_encoding"]


class NoStore(MemoryStore):
    """Must not be asked."""

    def mget(self, keys: Any) -> Any:
        raise AssertionError("a second look-up")


def no_encoding(*_: object, **__: object) -> None:
    """In place of ``RefragModel.encode_passages``."""
    raise AssertionError("a passage was encoded")
