"""The folder of an index: which files it has and what its meta.json says."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
from pydantic import Field

from refrag_components.atomic import atomic_file
from refrag_components.checking import checked, parse_json
from refrag_components.exceptions import FingerprintMismatchError, IndexFolderError
from refrag_components.index.catalog import Catalog
from refrag_components.index.store import check_store
from refrag_components.stores.common.database import Database
from refrag_components.vectors import Codec, codec_named

__all__ = [
    "META_FILE",
    "SEARCH_FILE",
    "STORE_FILE",
    "IndexInfo",
    "Meta",
    "check_folder",
    "index_documents",
    "index_info",
    "indexed_passages",
]

META_FILE = "meta.json"
STORE_FILE = "store.sqlite"
SEARCH_FILE = "search.npy"

_FORMAT = 1

# Names are shown on terminals, which follow control characters.
_Name = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


@dataclass(frozen=True)
class IndexInfo:
    """What an index folder holds.

    Attributes:
        folder: The folder.
        model: Where the model that made it comes from; None if unknown.
        fingerprint: Of that model.
        chunk_size: Tokens per chunk.
        codec: How chunk vectors are stored; None if the user's store decides.
        passage_tokens: Maximum number of tokens per passage.
        store: Where chunk vectors are kept: a URL without its password, "given" for a store that
            was passed as an object, None for the folder.
        documents: Number of documents.
        passages: Number of their passages.
        chunks: Number of the passages' chunks.
        tokens: Number of the passages' decoder tokens.
        size_bytes: Size of its files.
    """

    folder: str
    model: str | None
    fingerprint: str
    chunk_size: int
    codec: Codec | None
    passage_tokens: int
    store: str | None
    documents: int
    passages: int
    chunks: int
    tokens: int
    size_bytes: int


def index_info(folder: str | os.PathLike[str]) -> IndexInfo:
    """Says what an index folder holds, without its model.

    Raises:
        IndexFolderError: If the folder holds no index.
    """
    path = Path(folder)
    meta = Meta.read(path)
    with closing(Database(path / STORE_FILE)) as database:
        counts = Catalog(database, meta.fingerprint).counts(meta.chunk_size)
    files = (path / name for name in (META_FILE, STORE_FILE, SEARCH_FILE))
    return IndexInfo(
        folder=str(path),
        **asdict(meta) | {"codec": meta.codec if meta.store is None else None},
        **counts._asdict(),
        size_bytes=sum(file.stat().st_size for file in files if file.exists()),
    )


def index_documents(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the documents that an index folder holds, without its model.

    Raises:
        IndexFolderError: If the folder holds no index.
    """
    path = Path(folder)
    meta = Meta.read(path)
    with closing(Database(path / STORE_FILE)) as database:
        return Catalog(database, meta.fingerprint).all_paths()


def indexed_passages(folder: str | os.PathLike[str], document: str) -> list[tuple[str, int]] | None:
    """Text and number of tokens of each passage of a document, without the model.

    Args:
        folder: The index.
        document: Path of the document, as ``index_documents`` lists it, or of its file.

    Returns:
        The passages in order; None if the index holds no such document.

    Raises:
        IndexFolderError: If the folder holds no index.
    """
    path = Path(folder)
    meta = Meta.read(path)
    with closing(Database(path / STORE_FILE)) as database:
        catalog = Catalog(database, meta.fingerprint)
        for name in (document, str(Path(document).resolve())):
            if catalog.digest(name) is not None:
                return catalog.document_passages(name)
    return None


def check_folder(
    folder: str | os.PathLike[str],
    *,
    codec: Codec = "float16",
    passage_tokens: int = 256,
    fingerprint: str | None = None,
    store: str | None = None,
) -> None:
    """Makes sure that an index can be created in a folder, or that the one in it can be continued.

    Args:
        folder: The folder.
        codec: How chunk vectors are to be stored.
        passage_tokens: Maximum number of tokens per passage.
        fingerprint: Of the model, if it is loaded already.
        store: Name of the requested store, see ``store_name``; None if none was requested.

    Raises:
        IndexFolderError: If the folder holds something else, or an index of another codec,
            passage length or store.
        FingerprintMismatchError: If another model made the index that it holds.
    """
    path = Path(folder)
    if (path / META_FILE).exists():
        meta = Meta.read(path, fingerprint)
        if (meta.codec, meta.passage_tokens) != (codec, passage_tokens):
            msg = (
                f"{path} holds an index with codec {meta.codec} and passages of at most "
                f"{meta.passage_tokens} tokens; use these or choose another folder"
            )
            raise IndexFolderError(msg)
        check_store(path, meta.store, store)
        return
    ours = (META_FILE, STORE_FILE, ".")  # also what a killed ``create`` left behind
    try:
        names = [entry.name for entry in path.iterdir()] if path.exists() else []
    except OSError as error:
        raise IndexFolderError(_unfit(path, error)) from error
    if strangers := sorted(name for name in names if not name.startswith(ours)):
        msg = f"{path} holds other files ({strangers[0]}); choose a new or empty folder"
        raise IndexFolderError(msg)


@dataclass(frozen=True)
class Meta:
    """Properties of a whole index; the content of meta.json.

    Attributes:
        model: Where the model that made the index comes from; None if unknown.
        fingerprint: Of that model; unlike its name it is checked.
        chunk_size: Tokens per chunk.
        codec: How chunk vectors are stored.
        passage_tokens: Maximum number of tokens per passage.
        store: Where chunk vectors are kept, see ``store_name``.
    """

    model: _Name | None
    fingerprint: _Name
    chunk_size: Annotated[int, Field(ge=1, lt=2**31)]
    codec: Codec
    passage_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    store: _Name | None = None

    def __post_init__(self) -> None:
        codec_named(self.codec)
        if self.passage_tokens < 1:
            raise ValueError(f"passage_tokens must be at least 1, got {self.passage_tokens}")

    @classmethod
    def read(cls, folder: Path, fingerprint: str | None = None) -> Meta:
        """Reads an index folder's meta.json.

        Args:
            folder: The folder.
            fingerprint: Of the model that is to use the index, if any.

        Raises:
            IndexFolderError: If the folder holds no index that this library can read.
            FingerprintMismatchError: If another model made it.
        """
        _check_links(folder)
        try:
            content = parse_json((folder / META_FILE).read_bytes())
            version = checked(int, content["format"])
            named = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
            meta = checked(cls, named) if version == _FORMAT else None
        except (FileNotFoundError, NotADirectoryError) as error:
            msg = f"{folder} holds no index; make one with `refrag index` or RefragIndex.create"
            raise IndexFolderError(msg) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = (
                f"{folder / META_FILE} does not describe an index; index the documents into a new "
                "folder"
            )
            raise IndexFolderError(msg) from error
        except OSError as error:
            raise IndexFolderError(f"{folder / META_FILE} cannot be read: {error}") from error
        if meta is None:
            msg = (
                f"{folder} has format {version}, but this library reads {_FORMAT}; update the "
                "library"
            )
            raise IndexFolderError(msg)
        if fingerprint not in (None, meta.fingerprint):
            msg = (
                f"{folder} was made with {meta.model or 'a model'} of fingerprint "
                f"{meta.fingerprint}, but this model has {fingerprint}; open it with the model "
                "that made it, or index the documents again into a new folder"
            )
            raise FingerprintMismatchError(msg)
        return meta

    def write(self, folder: Path) -> None:
        """Writes the folder's meta.json atomically; the folder is created if missing.

        Raises:
            IndexFolderError: If it cannot be written.
        """
        content = {
            "format": _FORMAT,
            **asdict(self),
            "versions": {"faiss": faiss.__version__, "numpy": np.__version__},
        }
        try:
            with atomic_file(folder / META_FILE) as scratch:
                scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise IndexFolderError(_unfit(folder, error)) from error


def _check_links(folder: Path) -> None:
    """Refuses files that lie elsewhere: whoever made the folder would choose what is overwritten.

    Raises:
        IndexFolderError: If one is a link that leads out of the folder.
    """
    journals = (f"{STORE_FILE}{end}" for end in ("-journal", "-shm", "-wal"))
    for path in (folder / name for name in (META_FILE, STORE_FILE, SEARCH_FILE, *journals)):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            msg = f"{path} is a link that leads out of the folder; put the file itself there"
            raise IndexFolderError(msg)


def _unfit(folder: Path, error: OSError) -> str:
    return f"{folder} cannot hold an index: {error.strerror}; choose a new or empty folder"
