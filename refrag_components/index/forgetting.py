"""Deleting documents from an index for good, without the model that made it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from refrag_components.exceptions import EmptyInputError
from refrag_components.index.catalog import Catalog
from refrag_components.index.cleaning import clean_up
from refrag_components.index.folder import META_FILE, SEARCH_FILE, STORE_FILE, Meta
from refrag_components.index.roots import is_below
from refrag_components.index.search import PassageSearch
from refrag_components.index.store import check_store, store_name, user_store
from refrag_components.stores import (
    BaseChunkStore,
    ChunkStore,
    SQLiteStore,
    forget_everything,
)
from refrag_components.stores.common.database import Database

__all__ = ["forget"]

_FILES = (META_FILE, STORE_FILE, f"{STORE_FILE}-wal", f"{STORE_FILE}-shm", SEARCH_FILE)


def forget(
    folder: str | os.PathLike[str],
    *,
    documents: Iterable[str | os.PathLike[str]] = (),
    texts: Iterable[str] = (),
    everything: bool = False,
    store: str | ChunkStore | None = None,
) -> list[str]:
    """Deletes documents, their passages, search vectors, chunk vectors and token ids.

    What was deleted is also written over in the index's own files, and in its store as far as that
    lets a client do so. A file that still lies in the folder of the documents comes back when that
    is indexed again. Backups, copies and snapshots of databases are not touched.

    Args:
        folder: The index.
        documents: Paths of documents, as search names them, or of files, or of folders, which
            stand for all documents below them.
        texts: Each document with a passage in which one of these stands, letter by letter, is
            deleted whole.
        everything: Delete all documents, everything in the index's store, and the index itself.
        store: Its store, as for ``RefragIndex.open``.

    Returns:
        Paths of the deleted documents.

    Raises:
        EmptyInputError: If a text is empty: it stands in every passage.
        IndexFolderError: As ``RefragIndex.open``.
        StoreError: If the store cannot be opened or written; call again then.
    """
    wanted = list(texts)
    if not all(text.strip() for text in wanted):
        raise EmptyInputError("a text to forget is empty; name one that stands in a passage")
    path = Path(folder)
    meta = Meta.read(path)
    check_store(path, meta.store, store_name(store))
    user = user_store(path, meta.store, store)
    in_folder = None if user.store is not None else SQLiteStore(path / STORE_FILE, meta.codec)
    try:
        with closing(in_folder.database if in_folder else Database(path / STORE_FILE)) as database:
            vectors: ChunkStore | None = user.store or in_folder
            assert vectors is not None
            catalog = Catalog(database, meta.fingerprint)
            paths = catalog.all_paths() if everything else _paths(catalog, documents, wanted)
            removed = [name for name in paths if catalog.remove(name)]
            clean_up(catalog, database, vectors, patience=0.0)
            if everything:
                forget_everything(vectors)
            elif isinstance(vectors, BaseChunkStore):
                vectors.scrub()
            search = PassageSearch(path / SEARCH_FILE, database, catalog)
            search.sync()
            search.save()
            database.scrub()
    finally:
        if user.opened is not None:
            user.opened.close()
    if everything:
        for name in _FILES:
            (path / name).unlink(missing_ok=True)
    return removed


def _paths(
    catalog: Catalog, documents: Iterable[str | os.PathLike[str]], texts: Iterable[str]
) -> list[str]:
    names = [os.fspath(document) for document in documents]
    wanted = [path for name in names for path in (name, str(Path(name).resolve()))]
    known = catalog.all_paths() if wanted else ()
    named = [path for path in known if any(is_below(path, place) for place in wanted)]
    holding = [path for text in texts for path in catalog.paths_with(text)]
    return list(dict.fromkeys((*named, *holding)))
