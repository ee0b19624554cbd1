"""What a file says: its text as Markdown, by libraries that know its type.

Whoever wrote the file may have meant to break its reader; see ``extraction_process``, in which all
but plain text in UTF-8 is read. This module therefore imports what reads a type when it is met.
"""

from __future__ import annotations

import csv
import io
import json
from typing import NamedTuple

from refrag_components.exceptions import DocumentError
from refrag_components.text.markup import markup_title_and_text

__all__ = ["SUFFIXES", "TEXT_NAMES", "TYPES", "Extracted", "extract", "is_code", "plain_text"]

_HTML = (".htm", ".html", ".xhtml")
_MARKDOWN = (".markdown", ".md", ".mdx")
_OFFICE = (".docx", ".eml", ".epub", ".pptx", ".xlsx")
_TABLES = (".csv", ".tsv")
_CODE = (
    ".c .cc .cfg .cpp .cs .css .go .h .hpp .ini .java .jl .js .json .jsonl .jsx .kt .lua .php .pl "
    ".proto .py .pyi .r .rb .rs .scala .sh .sql .swift .toml .ts .tsx .xml .yaml .yml"
)
_CODE_NAMES = ("dockerfile", "makefile")
_PLAIN = (".adoc", ".log", ".org", ".rst", ".tex", ".text", ".txt", *_CODE.split())

SUFFIXES = tuple(sorted((*_HTML, *_MARKDOWN, *_OFFICE, *_PLAIN, *_TABLES, ".ipynb", ".pdf")))
"""Files with these suffixes are read, in upper or lower case."""

TEXT_NAMES = (
    *("authors", "changelog", "changes", "copying", "license", "news", "notice", "readme"),
    *_CODE_NAMES,
)
"""Files with these names and no suffix are text, in upper or lower case."""


TYPES = "text, Markdown, HTML, PDF, Office, books, mail, tables, notebooks and code"
"""The same in words."""


class Extracted(NamedTuple):
    """What a file says.

    Attributes:
        text: Its text.
        title: Its title; "" where it has none.
        warning: What may be wrong with the text; completes a sentence that begins with the path.
            "" where nothing is known to be.
        pages: Where pages begin: "OFFSET:NUMBER" for each, ascending, with spaces between them; ""
            if there are none.
    """

    text: str
    title: str = ""
    warning: str = ""
    pages: str = ""


def is_code(name: str) -> bool:
    """Whether a file with this name holds code."""
    return name.lower().endswith(tuple(_CODE.split())) or name.lower() in _CODE_NAMES


def plain_text(data: bytes, suffix: str) -> Extracted | None:
    """The text of a file in UTF-8 that needs no other reading; None if it does.

    Args:
        data: Its bytes.
        suffix: Of its name, in lower case; "" for one of ``TEXT_NAMES``.
    """
    if suffix not in ("", *_PLAIN) or b"\0" in data or b"\x1b$" in data or b"~{" in data:
        return None
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    title, text = markup_title_and_text(text, suffix)
    return Extracted(text, title) if text else None


def extract(data: bytes, suffix: str) -> Extracted:
    """What a file says.

    Args:
        data: Its bytes.
        suffix: Of its name, in lower case; "" for one of ``TEXT_NAMES``.

    Raises:
        DocumentError: If it says nothing; the message completes a sentence that begins with a path.
        MemoryError: If it takes more memory than there is.
    """
    if suffix == ".pdf":
        from refrag_components.text.pdf import pdf_contents

        title, text, places, warning = pdf_contents(data)
        pages = " ".join(f"{offset}:{number}" for offset, number in places)
        return Extracted(text, title, warning, pages)
    title, text, warning = _contents(data, suffix)
    text = text.strip()
    if not text:
        raise DocumentError("holds no text")
    return Extracted(text, title, warning)


def _contents(data: bytes, suffix: str) -> tuple[str, str, str]:
    """Title, text and warning."""
    if suffix in _OFFICE:
        from refrag_components.text.office import office_contents

        return *office_contents(data, suffix), ""

    from refrag_components.text.encodings import decode, decode_declared

    source, guessed = decode_declared(data) if suffix in _HTML else decode(data)
    warning = f"was read as {guessed}, which is a guess; save it as UTF-8" if guessed else ""
    return *_text(source, suffix), warning


def _text(source: str, suffix: str) -> tuple[str, str]:
    """Title and text."""
    if suffix in _HTML:
        from refrag_components.text.html import html_title_and_text

        return html_title_and_text(source)
    if suffix in _MARKDOWN:
        from refrag_components.text.markdown import markdown_title_and_text

        return markdown_title_and_text(source)
    if suffix in _TABLES:
        return "", _table(source, "\t" if suffix == ".tsv" else ",;\t|")
    if suffix == ".ipynb":
        return _notebook(source)
    return markup_title_and_text(source, suffix)


def _table(source: str, delimiters: str) -> str:
    from refrag_components.text.tables import markdown_table

    dialect: str | type[csv.Dialect]
    try:
        dialect = csv.Sniffer().sniff(source[:8192], delimiters)
    except csv.Error:
        dialect = "excel-tab" if delimiters == "\t" else "excel"
    reader = csv.reader(io.StringIO(source, newline=""), dialect)
    try:
        rows = [row for row in reader if any(map(str.strip, row))]
    except csv.Error:
        return source
    return markdown_table(rows)


def _notebook(source: str) -> tuple[str, str]:
    """Cells of a notebook; outputs are left out."""
    try:
        notebook = json.loads(source)
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        language = notebook["metadata"].get("language_info", {}).get("name", "")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DocumentError(f"is not a readable notebook; save it again: {error}") from error
    from refrag_components.text.markdown import markdown_title_and_text

    parts = []
    for kind, text in cells:
        if kind == "markdown":
            parts.append(markdown_title_and_text(text)[1])
        elif text.strip():
            parts.append(f"```{language}\n{text}\n```")
    return "", "\n\n".join(filter(None, parts))
