"""Where an index keeps its chunk vectors: in its folder, or in a store of the user."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refrag_components.exceptions import IndexFolderError, StoreError
from refrag_components.stores import BaseChunkStore, ChunkStore, open_store
from refrag_components.stores.url import without_password

__all__ = ["GIVEN", "UserStore", "check_store", "store_name", "user_store"]

GIVEN = "given"  # a store that was passed as an object; meta.json cannot say more


class UserStore(NamedTuple):
    """A store that an index uses instead of its folder.

    Attributes:
        store: The store; None if the folder is the store.
        opened: The store if it was opened for the index, which must then close it.
    """

    store: ChunkStore | None
    opened: BaseChunkStore | None


def store_name(store: str | ChunkStore | None) -> str | None:
    """What an index remembers of its store: a URL without its password; None for its folder.

    Raises:
        StoreError: If the URL cannot be read, or names a store that is not persistent.
    """
    if store is None:
        return None
    if not isinstance(store, str):
        return GIVEN
    if store == "memory:":
        raise StoreError(
            "an index outlives the process, so its store must too; give a path or a URL"
        )
    return without_password(store) if "://" in store else str(Path(store).absolute())


def check_store(folder: Path, remembered: str | None, requested: str | None) -> None:
    """Makes sure that an index can be used with the requested store.

    Args:
        folder: The index.
        remembered: The name of its store.
        requested: The name of the requested store; None if none was requested.

    Raises:
        IndexFolderError: If it is another store, or if a store has to be named.
    """
    if requested is None and remembered == GIVEN:
        msg = (
            f"{folder} keeps its chunk vectors in a store that was passed to it; pass it again as "
            "store, or its URL with --store"
        )
        raise IndexFolderError(msg)
    if requested is not None and (
        remembered is None or (requested != remembered and GIVEN not in (requested, remembered))
    ):
        msg = (
            f"{folder} keeps its chunk vectors in {remembered or 'its own folder'}; use that "
            "store, or index the documents into a new folder"
        )
        raise IndexFolderError(msg)


def user_store(remembered: str | None, store: str | ChunkStore | None) -> UserStore:
    """Opens the user's store of an index, unless it is open.

    Args:
        remembered: The name of the index's store.
        store: The requested store: a URL, or the store itself.
    """
    if store is not None and not isinstance(store, str):
        return UserStore(store, None)
    url = remembered if store is None else store
    opened = None if url is None else open_store(url)
    return UserStore(opened, opened)
