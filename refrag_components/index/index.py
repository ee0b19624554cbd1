"""Documents, chunk vectors and search in one folder: the embedded default."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refrag_components.exceptions import DocumentError, EmptyInputError
from refrag_components.index.catalog import Catalog, IndexedPassage
from refrag_components.index.consent import record_agreement
from refrag_components.index.diversity import most_diverse
from refrag_components.index.folder import (
    META_FILE,
    SEARCH_FILE,
    STORE_FILE,
    IndexInfo,
    Meta,
    check_folder,
    index_info,
)
from refrag_components.index.forecast import Forecast
from refrag_components.index.roots import missing, remember_root
from refrag_components.index.search import PassageSearch, search_rows
from refrag_components.index.store import UserStore, check_store, store_name, user_store
from refrag_components.index.types import AddReport, Hit, IndexModel, Progress
from refrag_components.index.writing import DocumentWriter, versioned
from refrag_components.stores import ChunkStore, SQLiteStore
from refrag_components.stores.common.database import Database
from refrag_components.text.documents import TYPES, Document, DocumentReader, Skipped, find_files
from refrag_components.vectors import Codec

__all__ = ["AddReport", "Hit", "IndexInfo", "IndexModel", "RefragIndex", "index_info"]

_CANDIDATES = 4  # passages for each one that is returned, of which diverse ones are picked


class RefragIndex:
    """An index in one folder: documents, their chunk vectors and search over their passages.

    Use ``create`` or ``open``. Documents are committed as a whole, so after a crash the same call
    continues where it stopped: finished documents are skipped. Several threads and processes may
    use a folder at once.

    Chunk vectors are kept in the folder or in a store of the user. Each index needs its own store,
    since it removes from the store whatever its own documents no longer need.

    Example:
        ``model`` is a ``RefragModel``, ``folder`` a folder that is not there yet.

        >>> texts = ["The harbour of Eastport was dug in 1907.", "Rain fell for three days."]
        >>> with RefragIndex.create(folder, model) as index:
        ...     report = index.add_texts(texts)
        ...     hits = index.search("When was the harbour dug?", k=2)
        >>> report.added, {hit.text for hit in hits} == set(texts)
        (2, True)

    Attributes:
        folder: Where it is.
        store: The chunk vectors of its passages.
    """

    def __init__(self, folder: Path, model: IndexModel, meta: Meta, user: UserStore) -> None:
        self.folder = folder
        if user.store is None:
            self.store: ChunkStore = (folder_store := SQLiteStore(folder / STORE_FILE, meta.codec))
            self._database = folder_store.database
        else:
            self.store = user.store
            self._database = Database(folder / STORE_FILE)
        self._opened = user.opened
        self._model = model
        self._catalog = Catalog(self._database, meta.fingerprint)
        self._writer = DocumentWriter(model, meta, self._catalog, self._database, self.store)
        self._search = PassageSearch(folder / SEARCH_FILE, self._database, self._catalog)
        self._refresh_search()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model: IndexModel,
        *,
        codec: Codec = "float16",
        passage_tokens: int = 256,
        model_name: str | None = None,
        store: str | ChunkStore | None = None,
    ) -> RefragIndex:
        """Creates an index in a new or empty folder, or continues the index that the folder holds.

        Args:
            folder: The folder.
            model: Encodes passages and questions.
            codec: How the folder stores chunk vectors, one of ``refrag_components.vectors.CODECS``.
            passage_tokens: Maximum number of tokens per passage.
            model_name: Where the model comes from, remembered for whoever opens the index later;
                the command line loads it without asking on this machine alone.
            store: Where chunk vectors are kept instead of the folder, for this index alone: a
                store, or the URL of one, see ``open_store``. The URL is kept without its password.

        Raises:
            IndexFolderError: If the folder holds something else, or an index of another codec,
                passage length or store.
            FingerprintMismatchError: If another model made the index that it holds.
            StoreError: If the store cannot be opened.
        """
        path = Path(folder)
        name = store_name(store)
        wanted = Meta(
            model_name, model.fingerprint, model.config.chunk_size, codec, passage_tokens, name
        )
        check_folder(
            path,
            codec=codec,
            passage_tokens=passage_tokens,
            fingerprint=model.fingerprint,
            store=name,
        )
        known = (path / META_FILE).exists()
        remembered = Meta.read(path, model.fingerprint).store if known else name
        user = user_store(path, remembered, store)  # before the folder can remember a wrong URL
        if not known:
            wanted.write(path)
        meta = Meta.read(path, model.fingerprint)
        if model_name not in (None, meta.model):
            meta = replace(meta, model=model_name)
            meta.write(path)
        if model_name is not None:
            record_agreement(path, "model", model_name)
        return cls(path, model, meta, user)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        model: IndexModel,
        *,
        store: str | ChunkStore | None = None,
    ) -> RefragIndex:
        """Opens an index.

        Args:
            folder: The folder.
            model: The model that made it.
            store: Its store, if that was passed as an object, if its URL needs a password, or if
                nobody on this machine has given its URL before: one that only the folder names is
                not followed, since whoever made the folder may have chosen it.

        Raises:
            IndexFolderError: If the folder holds no index, or one with another store or with one
                that has to be given.
            FingerprintMismatchError: If another model made it.
            StoreError: If the store cannot be opened.
        """
        path = Path(folder)
        meta = Meta.read(path, model.fingerprint)
        check_store(path, meta.store, store_name(store))
        return cls(path, model, meta, user_store(path, meta.store, store))

    def __enter__(self) -> RefragIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files, and a store that was opened by its URL; closing twice is harmless."""
        self._database.close()
        if self._opened is not None:
            self._opened.close()

    def info(self) -> IndexInfo:
        """Says what the folder holds."""
        return index_info(self.folder)

    # -- adding ---------------------------------------------------------------------------------

    def add_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
        exclude: Sequence[str] = (),
        prune: bool = False,
    ) -> AddReport:
        """Brings the index up to date with the files below a folder.

        New files are added, changed ones replaced, unchanged ones left as they are. Documents
        whose files are gone, are now left out or can no longer be read are removed, also those of
        other folders that were indexed before. Links that lead out of the folder, or to hidden
        files in it, are skipped, and so is what takes too long to read.

        Args:
            folder: Folder of the files; a file stands for itself.
            batch_size: Passages that the model encodes at once.
            progress: Called with the report so far whenever it has changed.
            exclude: Patterns of files to leave out, see ``find_files``.
            prune: Remove also documents of folders whose drive may just not be mounted; otherwise
                the report names these folders.

        Raises:
            DocumentError: If there is no such folder, or no file in it can be read and none could
                be before.
        """
        root = Path(folder).resolve()
        files = list(find_files(root, exclude=exclude))
        seen = set(map(str, files))
        remember_root(self._catalog, root)
        forecast = Forecast(files, set(self._catalog.all_paths()))
        documents = self._read(files, root)
        report = self._add(documents, forecast, batch_size=batch_size, progress=progress)
        gone, report.absent = missing(self._catalog, str(root), seen, prune=prune)
        report.removed += self.remove(gone)
        if not report.added + report.updated + report.unchanged + report.removed:
            msg = f"{root} holds no file that can be read ({TYPES})"
            if report.skipped:
                first = report.skipped[0]
                msg += f"; {len(report.skipped)} skipped, the first: {first.path} {first.reason}"
            raise DocumentError(msg)
        return report

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> AddReport:
        """Adds texts that are not in files; one already indexed with its metadata stays as it is.

        Args:
            texts: Texts; those longer than a passage are split.
            metadatas: One per text, see ``Document``; "source" becomes the source of its hits.
            batch_size: Passages that the model encodes at once.
            progress: Called with the report so far whenever it has changed.

        Raises:
            DocumentError: If metadata cannot be stored; texts before it may have been added.
        """
        if metadatas is None:
            named = (Document("", text) for text in texts)
        else:
            named = (Document("", t, m) for t, m in zip(texts, metadatas, strict=True))
        documents = (replace(document, path=f"text:{document.digest}") for document in named)
        return self.add(documents, batch_size=batch_size, progress=progress)

    def add(
        self,
        documents: Iterable[Document | Skipped],
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> AddReport:
        """Adds documents one after another, holding few in memory.

        A document replaces the one with the same path unless their digests are equal.

        Args:
            documents: Documents, for example from ``load_documents``; a skipped one is removed if
                it was indexed before.
            batch_size: Passages that the model encodes at once.
            progress: Called with the report so far whenever it has changed.
        """
        return self._add(documents, Forecast((), ()), batch_size=batch_size, progress=progress)

    def _add(
        self,
        documents: Iterable[Document | Skipped],
        forecast: Forecast,
        *,
        batch_size: int,
        progress: Progress | None,
    ) -> AddReport:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        report = self._writer.add(documents, forecast, batch_size, progress)
        self._refresh_search()
        return report

    def remove(self, paths: Iterable[str]) -> int:
        """Removes documents and returns how many there were."""
        removed = self._writer.remove(paths)
        self._refresh_search()
        return removed

    def documents(self) -> list[str]:
        """Paths of all documents."""
        return self._catalog.all_paths()

    # -- searching ------------------------------------------------------------------------------

    def search(self, question: str, k: int = 5, *, diversity: float = 0.0) -> list[Hit]:
        """Finds the passages that are most similar to a question.

        Args:
            question: The question.
            k: Maximum number of passages, at least 1.
            diversity: From 0, similarity alone, to 1: how much passages are to differ, by maximal
                marginal relevance among the 4 k most similar.

        Returns:
            At most k hits, best first, no two with the same text.

        Raises:
            EmptyInputError: If the question is empty.
            ValueError: If k or the diversity is outside its range.
        """
        if not question.strip():
            raise EmptyInputError("the question is empty; ask something")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        vector = search_rows(self._model.search_vector(question)[None, :])[0]
        candidates = _CANDIDATES * k if diversity else k
        wanted = candidates
        while True:
            scores = dict(self._search.search(vector, wanted))
            found = self._catalog.passages(list(scores))
            distinct: dict[str, int] = {}
            for number, passage in found.items():
                distinct.setdefault(passage.key, number)
            if len(distinct) >= candidates or len(scores) < wanted:
                break
            wanted *= 4  # the same text is in several documents
        numbers = list(distinct.values())[:candidates]
        if diversity and (vectors := self._search.vectors(numbers)):
            numbers = list(vectors)
            picked = most_diverse(vector, np.stack(list(vectors.values())), k, diversity)
            numbers = [numbers[i] for i in picked]
        return [self._hit(found[number], scores[number]) for number in numbers]

    def _hit(self, passage: IndexedPassage, score: float) -> Hit:
        documents = self._catalog.documents_with(passage.key)
        sources = [str(metadata.get("source", path)) for path, metadata in documents]
        source = str(passage.metadata.get("source", passage.path))
        return Hit(
            text=passage.text,
            source=source,
            score=score,
            key=passage.key,
            metadata=passage.metadata,
            sources=tuple(dict.fromkeys((source, *sources))),
            page=passage.page,
        )

    def _read(self, files: Iterable[Path], root: Path) -> Iterator[Document | Skipped]:
        with DocumentReader(root) as reader:
            for path in files:
                known = self._catalog.digest(str(path)) or ""
                yield reader.load(path, known_digest=known.removeprefix(versioned("")))

    def _refresh_search(self) -> None:
        self._search.sync()
        self._search.save()
