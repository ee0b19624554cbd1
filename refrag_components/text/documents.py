"""Files to documents: text, Markdown, reStructuredText, HTML and PDF."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import numpy as np

from refrag_components.checking import parse_json
from refrag_components.exceptions import DocumentError
from refrag_components.text.extraction import HTML_SUFFIXES, PDF_SUFFIX, extract
from refrag_components.text.extraction_process import ExtractionProcess

__all__ = [
    "MAX_FILE_BYTES",
    "SUFFIXES",
    "Document",
    "DocumentReader",
    "Skipped",
    "find_files",
    "load_document",
    "load_documents",
]

MAX_FILE_BYTES = 50 * 2**20
"""Larger files are skipped."""

SUFFIXES = (*HTML_SUFFIXES, ".md", PDF_SUFFIX, ".rst", ".txt")
"""Files with these suffixes are read, in upper or lower case."""


@dataclass(frozen=True)
class Document:
    """What the user indexes.

    Attributes:
        path: What identifies it: the file's path, or any other name.
        text: Its text.
        metadata: What comes back with its passages, as JSON values: dates, paths and UUIDs become
            strings, and numpy's numbers become plain ones.
        digest: Changes when the document changes; computed from text and metadata unless given.

    Raises:
        DocumentError: If the metadata holds something that JSON cannot hold.
    """

    path: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        try:
            metadata = json.dumps(dict(self.metadata), sort_keys=True, default=_plain)
            plain = parse_json(metadata)
        except (RecursionError, TypeError, ValueError) as error:
            msg = f"the metadata of {self.path or 'a text'} cannot be kept: {error}"
            raise DocumentError(msg) from error
        object.__setattr__(self, "metadata", plain)
        if not self.digest:
            content = f"[{json.dumps(self.text)}, {metadata}]".encode()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            object.__setattr__(self, "digest", digest)


def _plain(value: object) -> object:
    """What JSON writes instead of a value that it does not know."""
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (PurePath, UUID)):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    msg = f"{value!r} is a {type(value).__name__}; make it a string or a number first"
    raise TypeError(msg)


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be indexed.

    Attributes:
        path: The file's path.
        reason: Why; completes a sentence that begins with the path.
    """

    path: str
    reason: str


def load_documents(folder: str | os.PathLike[str]) -> Iterator[Document | Skipped]:
    """Reads all files below a folder, one at a time, in the same order every time.

    Links that lead out of the folder are skipped.

    Raises:
        DocumentError: If there is no such folder.
    """
    return _load_all(find_files(folder), Path(folder).resolve())


def _load_all(files: Iterator[Path], root: Path) -> Iterator[Document | Skipped]:
    with DocumentReader(root) as reader:
        yield from map(reader.load, files)


def find_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Finds the files below a folder, in the order of their names, except hidden ones.

    Returns:
        Absolute paths. A folder that cannot be listed is returned itself, for ``load_document``
        to report.

    Raises:
        DocumentError: If there is no such folder.
    """
    path = Path(folder).resolve()
    if not path.exists():
        raise DocumentError(f"{path} does not exist; name a folder with documents")
    if not path.is_dir():
        raise DocumentError(f"{path} is a file; name the folder that contains it")
    return _walk(path)


def load_document(path: Path, *, known_digest: str = "") -> Document | Skipped:
    """Reads one file; see ``DocumentReader.load``, which is faster for many."""
    with DocumentReader() as reader:
        return reader.load(path, known_digest=known_digest)


class DocumentReader:
    """Reads files one after another; ``with`` ends the process that reads HTML and PDF.

    Args:
        root: Links to what is outside this folder, or hidden in it, are not followed; None follows
            all links.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._process = ExtractionProcess()

    def __enter__(self) -> DocumentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def load(self, path: Path, *, known_digest: str = "") -> Document | Skipped:
        """Reads one file; anything wrong with it becomes the reason for skipping it.

        HTML and PDF may take two minutes and two gigabytes each, and are read in another process.

        Args:
            path: The file.
            known_digest: Digest of the file when it was last read. If it has not changed since, its
                text is not extracted: the document comes with this digest and an empty text.
        """
        name = os.fsencode(path).decode("utf-8", "replace")
        try:
            if name != str(path):
                raise DocumentError("has a name that is not UTF-8")
            self._check_link(path)
            data = _read(path)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            suffix = path.suffix.lower()
            text = "" if digest == known_digest else _text(data, suffix, self._process)
        except DocumentError as error:
            return Skipped(name, str(error))
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            return Skipped(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return Document(name, text, digest=digest)

    def _check_link(self, path: Path) -> None:
        if self._root is None or not path.is_symlink() or not path.exists():
            return
        target = path.resolve()
        inside = target.is_relative_to(self._root)
        if not inside or any(p.startswith(".") for p in target.relative_to(self._root).parts):
            raise DocumentError("is a link that leads out of the folder, or to a hidden file")


def _walk(folder: Path) -> Iterator[Path]:
    waiting = [folder]  # the next one last; no recursion, since folders nest without limit
    folders = {folder}
    while waiting:
        path = waiting.pop()
        if path not in folders:
            yield path
            continue
        folders.remove(path)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield path
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            waiting.append(Path(entry.path))
            if entry.is_dir(follow_symlinks=False):
                folders.add(waiting[-1])


def _read(path: Path) -> bytes:
    """The file's bytes, after the checks that need no bytes."""
    if not path.is_file():
        if path.is_dir() and not path.is_symlink():
            raise DocumentError("is a folder that cannot be listed")
        raise DocumentError("is not a regular file")
    if path.suffix.lower() not in SUFFIXES:
        raise DocumentError(f"is not one of {', '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        megabytes = -(-size // 2**20)  # rounded up, so that it exceeds the limit
        raise DocumentError(f"has {megabytes} MB, more than {MAX_FILE_BYTES // 2**20} MB")
    return path.read_bytes()


def _text(data: bytes, suffix: str, process: ExtractionProcess) -> str:
    if suffix in HTML_SUFFIXES or suffix == PDF_SUFFIX:
        return process.extract(data, suffix)
    return extract(data, suffix)
