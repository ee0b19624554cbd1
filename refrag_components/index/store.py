"""Where an index keeps its chunk vectors: in its folder, or in a store of the user."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refrag_components.exceptions import IndexFolderError, StoreError
from refrag_components.index.consent import has_agreed, record_agreement
from refrag_components.stores import BaseChunkStore, ChunkStore, open_store
from refrag_components.stores.common.url import split_options, split_url, without_password

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
    if "://" not in store:
        return str(Path(store).absolute())
    return without_password(split_options(store, "timeout")[0])


def check_store(folder: Path, remembered: str | None, requested: str | None) -> None:
    """Makes sure that an index can be used with the requested store.

    Args:
        folder: The index.
        remembered: The name of its store.
        requested: The name of the requested store; None if none was requested.

    Raises:
        IndexFolderError: If it is another store, or if a store has to be named: because it was
            passed as an object, or because nobody on this machine has named it for this folder.
    """
    if requested is None and remembered not in (None, GIVEN):
        _check_agreement(folder, remembered)
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


def user_store(folder: Path, remembered: str | None, store: str | ChunkStore | None) -> UserStore:
    """Opens the user's store of an index, unless it is open.

    A URL that the user gives is remembered as agreed to, outside the folder, once it has led to a
    store.

    Args:
        folder: The index.
        remembered: The name of the index's store, after ``check_store``.
        store: The requested store: a URL, or the store itself.
    """
    if store is not None and not isinstance(store, str):
        return UserStore(store, None)
    url = remembered if store is None else store
    opened = None if url is None else open_store(url)
    if store is not None and (name := store_name(store)) is not None:
        record_agreement(folder, "store", name)
    return UserStore(opened, opened)


def _check_agreement(folder: Path, url: str) -> None:
    """Refuses a store that only the folder names: whoever wrote the folder may have chosen it."""
    if url.startswith("qdrant:") and not split_url(url).netloc:
        msg = (
            f"{folder} keeps its chunk vectors in {url}, whose files are pickled; if you trust "
            "them, name it each time with --store, or as store"
        )
        raise IndexFolderError(msg)
    if not has_agreed(folder, "store", url):
        msg = (
            f"{folder} keeps its chunk vectors in {url}, which nobody has named on this machine; "
            "if you trust it, name it once with --store, or as store (your passwords may be sent "
            "to it)"
        )
        raise IndexFolderError(msg)
