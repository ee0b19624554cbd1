"""The text in a file's bytes: plain text, HTML and PDF.

Whoever wrote the file may have meant to break its reader; see ``extraction_process``, in which HTML
and PDF are read. This module therefore imports nothing else of weight.
"""

from __future__ import annotations

import codecs
import io
import logging
import re

from bs4 import BeautifulSoup, NavigableString, Tag
from pypdf import PdfReader
from pypdf.errors import DependencyError

from refrag_components.exceptions import DocumentError

__all__ = ["HTML_SUFFIXES", "PDF_SUFFIX", "extract"]

logger = logging.getLogger(__name__)

HTML_SUFFIXES = (".htm", ".html")
PDF_SUFFIX = ".pdf"

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


def extract(data: bytes, suffix: str) -> str:
    """The text of a file.

    Args:
        data: Its bytes.
        suffix: Of its name, in lower case.

    Raises:
        DocumentError: If there is none; the message completes a sentence that begins with a path.
        MemoryError: If it takes more memory than there is.
    """
    if suffix == PDF_SUFFIX:
        text = _pdf_text(data)
    else:
        text = _decoded(data)
        if suffix in HTML_SUFFIXES:
            text = _html_text(text)
    text = text.strip()
    if not text:
        scan = "; a scanned PDF needs text recognition first" if suffix == PDF_SUFFIX else ""
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
    try:
        soup = BeautifulSoup(source, "html.parser")
    except MemoryError:
        raise
    except Exception as error:  # some malformed markup makes the parser give up
        raise DocumentError(f"is not readable HTML: {error}") from error
    for tag in soup("noscript"):
        tag.decompose()
    preformatted = _inside(soup, "pre")
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


def _inside(soup: BeautifulSoup, name: str) -> set[int]:
    """Ids of all nodes inside tags of this name; each is looked at once, however they nest."""
    inside: set[int] = set()
    for tag in soup(name):
        if id(tag) not in inside:
            inside.update(map(id, tag.descendants))
    return inside


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
    except MemoryError:
        raise
    except Exception as error:  # broken PDFs make pypdf raise almost anything
        raise DocumentError(f"is not a readable PDF: {error}") from error
    if text is None:
        raise DocumentError("is encrypted; save it without a password")
    return text
