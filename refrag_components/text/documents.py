"""Files to documents."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import numpy as np

from refrag_components.checking import parse_json
from refrag_components.exceptions import DocumentError
from refrag_components.text.extraction import (
    SUFFIXES,
    TEXT_NAMES,
    TYPES,
    Extracted,
    is_code,
    plain_text,
)
from refrag_components.text.extraction_process import ExtractionProcess
from refrag_components.text.files import find_files

__all__ = [
    "MAX_FILE_BYTES",
    "READER_VERSION",
    "TYPES",
    "Document",
    "DocumentReader",
    "Skipped",
    "find_files",
    "is_supported",
    "load_document",
    "load_documents",
]

MAX_FILE_BYTES = 50 * 2**20
"""Larger files are skipped."""

READER_VERSION = 3
"""Part of the digest of a file: raised when files are read differently, so that they are again."""


@dataclass(frozen=True)
class Document:
    """What the user indexes.

    Attributes:
        path: What identifies it: the file's path, or any other name.
        text: Its text.
        metadata: What comes back with its passages, as JSON values: dates, paths and UUIDs become
            strings, and numpy's numbers become plain ones.
        digest: Changes when the document changes; computed from the rest unless given.
        title: Its title, which goes with each of its passages; "" if it has none.
        warning: What may be wrong with the text; completes a sentence that begins with the path.
        code: The text is code, in which nothing is a heading.
        pages: Offset of the first character and number of each page, ascending; empty if it has no
            pages.

    Raises:
        DocumentError: If the metadata holds something that JSON cannot hold.
    """

    path: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    title: str = ""
    warning: str = ""
    code: bool = False
    pages: tuple[tuple[int, int], ...] = ()

    def page_at(self, offset: int) -> int | None:
        """The page on which a character is; None if there are no pages."""
        index = bisect_right(self.pages, offset, key=lambda page: page[0]) - 1
        return self.pages[index][1] if index >= 0 else None

    def __post_init__(self) -> None:
        try:
            metadata = json.dumps(dict(self.metadata), sort_keys=True, default=_plain)
            plain = parse_json(metadata)
        except (RecursionError, TypeError, ValueError) as error:
            msg = f"the metadata of {self.path or 'a text'} cannot be kept: {error}"
            raise DocumentError(msg) from error
        object.__setattr__(self, "metadata", plain)
        if not self.digest:
            title = f", {json.dumps(self.title)}" if self.title else ""
            content = f"[{json.dumps(self.text)}, {metadata}{title}]".encode()
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


def load_documents(
    folder: str | os.PathLike[str], *, exclude: Sequence[str] = ()
) -> Iterator[Document | Skipped]:
    """Reads a file, or all files below a folder, one at a time, in the same order every time.

    Links that lead out of the folder are skipped.

    Args:
        folder: The file or folder.
        exclude: See ``find_files``.

    Raises:
        DocumentError: If there is neither.
    """
    return _load_all(find_files(folder, exclude=exclude), Path(folder).resolve())


def _load_all(files: Iterator[Path], root: Path) -> Iterator[Document | Skipped]:
    with DocumentReader(root) as reader:
        yield from map(reader.load, files)


def load_document(path: Path, *, known_digest: str = "") -> Document | Skipped:
    """Reads one file; see ``DocumentReader.load``, which is faster for many."""
    with DocumentReader() as reader:
        return reader.load(path, known_digest=known_digest)


def is_supported(path: Path) -> bool:
    """Whether files with such a name are read."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (not suffix and path.name.lower() in TEXT_NAMES)


class DocumentReader:
    """Reads files one after another; ``with`` ends the process that reads most of them.

    Args:
        root: Links to what is outside this folder, or hidden in it, are not followed; None, or a
            file, follows all links.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root if root is not None and root.is_dir() else None
        self._process = ExtractionProcess()

    def __enter__(self) -> DocumentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def load(self, path: Path, *, known_digest: str = "") -> Document | Skipped:
        """Reads one file; anything wrong with it becomes the reason for skipping it.

        All but plain text is read in another process, where a file may take two minutes and two
        gigabytes.

        Args:
            path: The file.
            known_digest: Digest of the file when it was last read. If it has not changed since, its
                text is not extracted: the document comes with this digest and an empty text.
        """
        name = os.fsencode(path).decode("utf-8", "replace")
        try:
            if name != str(path):
                raise DocumentError("has a name that is not UTF-8; rename it")
            self._check_link(path)
            data = _read(path)
            suffix = path.suffix.lower()
            version = f"{READER_VERSION}{suffix}\0".encode()
            digest = hashlib.blake2b(version + data, digest_size=16).hexdigest()
            if digest == known_digest:
                return Document(name, "", digest=digest)
            found = _extracted(data, suffix, self._process)
            pages = tuple(_page(place) for place in found.pages.split())
        except DocumentError as error:
            return Skipped(name, str(error))
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            return Skipped(name, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        code = is_code(path.name)
        return Document(
            name,
            found.text,
            digest=digest,
            title=found.title or (path.name if code else ""),
            warning=found.warning,
            code=code,
            pages=pages,
        )

    def _check_link(self, path: Path) -> None:
        if self._root is None or not path.is_symlink() or not path.exists():
            return
        target = path.resolve()
        inside = target.is_relative_to(self._root)
        if not inside or any(p.startswith(".") for p in target.relative_to(self._root).parts):
            raise DocumentError(
                "is a link that leads out of the folder, or to a hidden file; name what it leads "
                "to as well"
            )


def _read(path: Path) -> bytes:
    """The file's bytes, after the checks that need no bytes."""
    if not path.is_file():
        if path.is_dir() and not path.is_symlink():
            raise DocumentError("is a folder that cannot be listed; allow this user to read it")
        raise DocumentError("is not a regular file")
    if not is_supported(path):
        raise DocumentError(f"is of a type that is not read ({path.suffix.lower() or 'no suffix'})")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        megabytes = -(-size // 2**20)  # rounded up, so that it exceeds the limit
        most = MAX_FILE_BYTES // 2**20
        raise DocumentError(f"has {megabytes} MB, more than {most} MB; split it")
    return path.read_bytes()


def _page(place: str) -> tuple[int, int]:
    offset, number = place.split(":")
    return int(offset), int(number)


def _extracted(data: bytes, suffix: str, process: ExtractionProcess) -> Extracted:
    return plain_text(data, suffix) or process.extract(data, suffix)
