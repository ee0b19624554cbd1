"""Deleting by text and by tenant, from any store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from refrag_components.stores.common.base import BaseChunkStore, ChunkStore
from refrag_components.vectors import passage_key

__all__ = ["forget_everything", "forget_texts"]

_KEYS_PER_DELETION = 1000


def forget_texts(store: ChunkStore, texts: Iterable[str], fingerprint: str) -> None:
    """Deletes the chunk vectors and token ids of passages.

    Args:
        store: Where they are kept.
        texts: The passages, as they were retrieved; those that an index or a retriever stored are
            found with white space around them too. What is not stored is ignored.
        fingerprint: Of the model that encoded them; a store that several models share has them
            once for each.

    Raises:
        StoreError: If the store cannot be written.
    """
    _delete(
        store,
        (passage_key(written, fingerprint) for text in texts for written in {text, text.strip()}),
    )


def forget_everything(store: ChunkStore) -> None:
    """Deletes all that a store holds: a tenant's, if each tenant has a store of its own.

    Args:
        store: What ``open_store`` or the tenant's own class gives: other tables and collections of
            the same database stay as they are.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    _delete(store, iter(list(store.yield_keys())))


def _delete(store: ChunkStore, keys: Iterator[str]) -> None:
    while page := list(islice(keys, _KEYS_PER_DELETION)):
        store.mdelete(page)
    if isinstance(store, BaseChunkStore):
        store.scrub()
