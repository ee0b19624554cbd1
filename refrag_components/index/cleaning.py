"""Deleting the chunk vectors that no document of an index needs any longer."""

from __future__ import annotations

from refrag_components.index.catalog import Catalog
from refrag_components.stores.common.base import ChunkStore
from refrag_components.stores.common.database import Database

__all__ = ["clean_up"]

# Seconds after which a run that has stored chunk vectors but not their document counts as killed.
# If it is alive after all, it only loses time: what the store lacks is encoded when it is read.
_PATIENCE = 3600.0

_KEYS_PER_DELETION = 1000


def clean_up(
    catalog: Catalog, database: Database, store: ChunkStore, *, patience: float = _PATIENCE
) -> None:
    """Deletes chunk vectors that no document needs any longer or a killed run left behind.

    Args:
        catalog: Says which those are.
        database: Of the catalog.
        store: Of the chunk vectors.
        patience: Seconds after which an unfinished run counts as killed.
    """
    catalog.discard_overdue(patience)
    last = 0
    while discarded := catalog.discarded(last, _KEYS_PER_DELETION):
        # The store may be another database. What is discarded is therefore committed before it
        # is deleted there, and stays recorded until it is; other processes, which await a key
        # before they look for it in the store, wait meanwhile.
        with database.write():
            store.mdelete(catalog.unused(discarded.values()))
            catalog.forget_discarded(discarded)
        last = max(discarded)  # onwards, even if a damaged page gives a row back
