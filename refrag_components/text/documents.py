"""Files to documents: text, Markdown, reStructuredText, HTML and PDF."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import numpy as np
from bs4 import BeautifulSoup, NavigableString, Tag
from pypdf import PdfReader
from pypdf.errors import DependencyError

from refrag_components.checking import parse_json
from refrag_components.exceptions import DocumentError

__all__ = [
    "MAX_FILE_BYTES",
    "SUFFIXES",
    "Document",
    "Skipped",
    "find_files",
    "load_document",
    "load_documents",
]

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 50 * 2**20
"""Larger files are skipped."""

_HTML_SUFFIXES = (".htm", ".html")
_PDF_SUFFIX = ".pdf"
SUFFIXES = (*_HTML_SUFFIXES, ".md", _PDF_SUFFIX, ".rst", ".txt")
"""Files with these suffixes are read, in upper or lower case."""

_MARKS = (  # longest first: UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HTML_BREAKS = {
    tag: separator
    for separator, tags in (
        (
            "\n\n",
            "address article aside blockquote body div dl fieldset figure footer form h1 h2 h3 h4 "
            "h5 h6 head header hr main nav ol p pre section table title ul",
        ),
        ("\n", "br caption dd dt figcaption li summary tr"),
        (" ", "td th"),
    )
    for tag in tags.split()
}


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

    Raises:
        DocumentError: If there is no such folder.
    """
    return map(load_document, find_files(folder))


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
    """Reads one file; anything wrong with it becomes the reason for skipping it.

    Args:
        path: The file.
        known_digest: Digest of the file when it was last read. If it has not changed since, its
            text is not extracted: the document comes with this digest and an empty text.
    """
    name = os.fsencode(path).decode("utf-8", "replace")
    try:
        if name != str(path):
            raise DocumentError("has a name that is not UTF-8")
        data = _read(path)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        text = "" if digest == known_digest else _text(data, path.suffix.lower())
    except DocumentError as error:
        return Skipped(name, str(error))
    except OSError as error:
        return Skipped(name, f"cannot be read: {error.strerror}")
    return Document(name, text, digest=digest)


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


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


def _text(data: bytes, suffix: str) -> str:
    if suffix == _PDF_SUFFIX:
        text = _pdf_text(data)
    else:
        text = _decoded(data)
        if suffix in _HTML_SUFFIXES:
            text = _html_text(text)
    text = text.strip()
    if not text:
        scan = "; a scanned PDF needs text recognition first" if suffix == _PDF_SUFFIX else ""
        raise DocumentError(f"holds no text{scan}")
    return text


def _decoded(data: bytes) -> str:
    """Text in UTF-8, in Unicode with a byte order mark, or else in Windows-1252."""
    encodings = [name for mark, name in _MARKS if data.startswith(mark)][:1]
    if not encodings and b"\0" in data:
        raise DocumentError("is binary")
    for encoding in encodings or ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DocumentError("is in an unknown encoding; save it as UTF-8")


def _html_text(source: str) -> str:
    soup = BeautifulSoup(source, "html.parser")
    for tag in soup("noscript"):
        tag.decompose()
    preformatted = {id(string) for tag in soup("pre") for string in tag.strings}
    fragments = ["\n"]
    for node in soup.descendants:
        # Before a tag's content, and after the tag, which is where its next sibling begins.
        tags = [node.previous_sibling, node if getattr(node, "contents", None) else None]
        breaks = [_HTML_BREAKS.get(tag.name, "") for tag in tags if isinstance(tag, Tag)]
        fragments.extend(filter(None, [max(breaks, key=len, default="")]))
        if id(node) in preformatted:
            fragments.append(str(node))
        elif type(node) is NavigableString:  # its subclasses are comments, scripts and styles
            text = re.sub(r"\s+", " ", node)
            fragments.append(text.lstrip() if fragments[-1].endswith("\n") else text)
    lines = (line.rstrip() for line in "".join(fragments).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _pdf_text(data: bytes) -> str:
    text = None
    try:
        reader = PdfReader(io.BytesIO(data))
        if not reader.is_encrypted or reader.decrypt(""):
            text = "\n\n".join(page.extract_text() for page in reader.pages)
    except DependencyError:
        logger.debug(
            "a PDF is encrypted with a cipher that needs a package which is not installed",
            exc_info=True,
        )
    except Exception as error:  # broken PDFs make pypdf raise almost anything
        raise DocumentError(f"is not a readable PDF: {error}") from error
    if text is None:
        raise DocumentError("is encrypted; save it without a password")
    return text
