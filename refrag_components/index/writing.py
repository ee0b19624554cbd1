"""Documents into an index: passages, their vectors, the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from refrag_components.index.catalog import Catalog, PassageRow
from refrag_components.index.cleaning import clean_up
from refrag_components.index.folder import Meta
from refrag_components.index.forecast import Forecast
from refrag_components.index.search import search_rows
from refrag_components.index.types import AddReport, IndexModel, Progress
from refrag_components.stores import ChunkStore
from refrag_components.stores.common.database import Database
from refrag_components.text.documents import Document, Skipped
from refrag_components.text.passages import PASSAGES_VERSION, PlacedPassage, placed_passages
from refrag_components.text.splitting import token_counter
from refrag_components.text.tokenization import encodable
from refrag_components.vectors import passage_key

__all__ = ["DocumentWriter", "versioned"]

_BATCHES_PER_COMMIT = 2  # each pass of the model takes texts of similar lengths from these


class DocumentWriter:
    """Adds documents to an index's catalog, and their chunk vectors to its store.

    Args:
        model: Encodes passages.
        meta: How the index was made.
        catalog: Its documents and passages.
        database: Of the catalog.
        store: Its chunk vectors.
    """

    def __init__(
        self,
        model: IndexModel,
        meta: Meta,
        catalog: Catalog,
        database: Database,
        store: ChunkStore,
    ) -> None:
        self._model = model
        self._meta = meta
        self._count_tokens = token_counter(model.tokenizer)
        self._catalog = catalog
        self._database = database
        self._store = store

    def add(
        self,
        documents: Iterable[Document | Skipped],
        forecast: Forecast,
        batch_size: int,
        progress: Progress | None,
    ) -> AddReport:
        """Adds documents one after another, see ``RefragIndex.add``."""
        report = AddReport()
        waiting: list[tuple[Document, list[PlacedPassage]]] = []
        size = 0
        cut = 0  # passages so far

        def notify(report: AddReport) -> None:
            if progress is not None:
                report.expected = max(cut + forecast.ahead, report.passages)
                progress(report)

        for document in documents:
            if isinstance(document, Skipped):
                forecast.note(document.path)
                report.skipped.append(document)
                report.removed += self._catalog.remove(document.path)
                notify(report)
                continue
            if document.warning:
                report.warnings.append(Skipped(document.path, document.warning))
            document = replace(document, digest=versioned(document.digest))
            if self._catalog.digest(document.path) == document.digest:
                report.unchanged += 1
            else:
                passages = self._split(document)
                forecast.note(document.path, len(passages))
                waiting.append((document, passages))
                size += len(passages)
                cut += len(passages)
                if size < batch_size * _BATCHES_PER_COMMIT:
                    continue
                self._commit(waiting, batch_size, report, notify)
                waiting, size = [], 0
            notify(report)
        self._commit(waiting, batch_size, report, notify)
        clean_up(self._catalog, self._database, self._store)
        notify(report)
        return report

    def remove(self, paths: Iterable[str]) -> int:
        """Removes documents and returns how many there were."""
        removed = sum(self._catalog.remove(path) for path in paths)
        clean_up(self._catalog, self._database, self._store)
        return removed

    def _split(self, document: Document) -> list[PlacedPassage]:
        return placed_passages(
            encodable(document.text),
            self._count_tokens,
            self._meta.passage_tokens,
            title=encodable(document.title),
            code=document.code,
        )

    def _commit(
        self,
        waiting: list[tuple[Document, list[PlacedPassage]]],
        batch_size: int,
        report: AddReport,
        notify: Progress,
    ) -> None:
        """Encodes passages, then writes their documents in one transaction."""
        texts = [passage.text for _, passages in waiting for passage in passages]
        rows: list[PassageRow] = []
        step = batch_size * _BATCHES_PER_COMMIT
        for start in range(0, len(texts), step):
            rows += self._encode(texts[start : start + step], batch_size)
            report.passages += len(texts[start : start + step])
            notify(report)
        remaining = iter(rows)
        with self._database.write():
            self._catalog.settle(row.key for row in rows)
            for document, passages in waiting:
                document_rows = [
                    row._replace(page=document.page_at(passage.start))
                    for passage, row in zip(passages, islice(remaining, len(passages)), strict=True)
                ]
                if self._catalog.digest(document.path) == document.digest:
                    report.unchanged += 1  # another process was faster, or it was given twice
                    continue
                known = self._catalog.remove(document.path)
                self._catalog.add(document, document_rows)
                report.updated += known
                report.added += not known

    def _encode(self, texts: list[str], batch_size: int) -> list[PassageRow]:
        """Stores the chunk vectors of passages, except those already stored."""
        keys = [passage_key(text, self._meta.fingerprint) for text in texts]
        self._catalog.await_passages(keys)  # first, so that from now on no process deletes them
        stored = self._store.mget(keys)
        missing = {k: t for k, t, v in zip(keys, texts, stored, strict=True) if v is None}
        encoded = self._model.encode_passages(list(missing.values()), batch_size=batch_size)
        fresh = dict(zip(missing, encoded, strict=True))
        self._store.mset(fresh.items())
        found = zip(keys, stored, strict=True)
        tokens = [(fresh[key] if v is None else v).n_tokens for key, v in found]
        vectors = search_rows(self._model.search_vectors(texts))
        return [PassageRow(*row) for row in zip(keys, texts, tokens, vectors, strict=True)]


def versioned(digest: str) -> str:
    """Digest of a document as it is indexed; changes when documents are cut differently."""
    return f"{PASSAGES_VERSION}:{digest}"
