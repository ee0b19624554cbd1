"""What a file says: its text as Markdown, by libraries that know its type.

Whoever wrote the file may have meant to break its reader; see ``extraction_process``, in which all
but plain text in UTF-8 is read. This module therefore imports what reads a type when it is met.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import NamedTuple

from refrag_components.exceptions import DocumentError
from refrag_components.text.markup import markup_title_and_text

__all__ = ["SUFFIXES", "TEXT_NAMES", "TYPES", "Extracted", "extract", "is_code", "plain_text"]

_CODE_NAMES = ("dockerfile", "makefile")

TEXT_NAMES = (
    *("authors", "changelog", "changes", "copying", "license", "news", "notice", "readme"),
    *_CODE_NAMES,
)
"""Files with these names and no suffix are text, in upper or lower case."""


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
    return name.lower().endswith(_CODE.suffixes) or name.lower() in _CODE_NAMES


def plain_text(data: bytes, suffix: str) -> Extracted | None:
    """The text of a file in UTF-8 that needs no other reading; None if it does.

    Args:
        data: Its bytes.
        suffix: Of its name, in lower case; "" for one of ``TEXT_NAMES``.
    """
    if _format(suffix).read is not _plain or b"\0" in data or b"\x1b$" in data or b"~{" in data:
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
    found = _format(suffix).read(data, suffix)
    if found.pages:  # which are told by places in the text
        return found
    text = found.text.strip()
    if not text:
        raise DocumentError("holds no text")
    return found._replace(text=text)


class _Format(NamedTuple):
    """A type of files.

    Attributes:
        word: What it is to a user.
        suffixes: Of the files' names, in lower case.
        read: Says what a file says, by its bytes and suffix; imports what reads the type.
    """

    word: str
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str], Extracted]


def _plain(data: bytes, suffix: str) -> Extracted:
    source, warning = _decoded(data)
    title, text = markup_title_and_text(source, suffix)
    return Extracted(text, title, warning)


def _markdown(data: bytes, _: str) -> Extracted:
    from refrag_components.text.markdown import markdown_title_and_text

    source, warning = _decoded(data)
    title, text = markdown_title_and_text(source)
    return Extracted(text, title, warning)


def _html(data: bytes, _: str) -> Extracted:
    from refrag_components.text.encodings import decode_declared
    from refrag_components.text.html import html_title_and_text

    source, guessed = decode_declared(data)
    title, text = html_title_and_text(source)
    return Extracted(text, title, _guess(guessed))


def _pdf(data: bytes, _: str) -> Extracted:
    from refrag_components.text.pdf import pdf_contents

    title, text, places, warning = pdf_contents(data)
    pages = " ".join(f"{offset}:{number}" for offset, number in places)
    return Extracted(text, title, warning, pages)


def _office(data: bytes, suffix: str) -> Extracted:
    from refrag_components.text.office import office_contents

    title, text = office_contents(data, suffix)
    return Extracted(text, title)


def _table(data: bytes, suffix: str) -> Extracted:
    from refrag_components.text.tables import markdown_table

    source, warning = _decoded(data)
    delimiters = "\t" if suffix == ".tsv" else ",;\t|"
    dialect: str | type[csv.Dialect]
    try:
        dialect = csv.Sniffer().sniff(source[:8192], delimiters)
    except csv.Error:
        dialect = "excel-tab" if suffix == ".tsv" else "excel"
    reader = csv.reader(io.StringIO(source, newline=""), dialect)
    try:
        rows = [row for row in reader if any(map(str.strip, row))]
    except csv.Error:
        return Extracted(source, warning=warning)
    return Extracted(markdown_table(rows), warning=warning)


def _notebook(data: bytes, _: str) -> Extracted:
    """Cells of a notebook; outputs are left out."""
    source, warning = _decoded(data)
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
    return Extracted("\n\n".join(filter(None, parts)), warning=warning)


def _decoded(data: bytes) -> tuple[str, str]:
    """Text and warning."""
    from refrag_components.text.encodings import decode

    source, guessed = decode(data)
    return source, _guess(guessed)


def _guess(encoding: str) -> str:
    return f"was read as {encoding}, which is a guess; save it as UTF-8" if encoding else ""


_TEXT = _Format("text", (".adoc", ".log", ".org", ".rst", ".tex", ".text", ".txt"), _plain)
_CODE = _Format(
    "code",
    (
        *(".c", ".cc", ".cfg", ".cpp", ".cs", ".css", ".go", ".h", ".hpp", ".ini", ".java", ".jl"),
        *(".js", ".json", ".jsonl", ".jsx", ".kt", ".lua", ".php", ".pl", ".proto", ".py", ".pyi"),
        *(".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".toml", ".ts", ".tsx", ".xml"),
        *(".yaml", ".yml"),
    ),
    _plain,
)
_FORMATS = (
    _TEXT,
    _Format("Markdown", (".markdown", ".md", ".mdx"), _markdown),
    _Format("HTML", (".htm", ".html", ".xhtml"), _html),
    _Format("PDF", (".pdf",), _pdf),
    _Format("Office", (".docx", ".pptx", ".xlsx"), _office),
    _Format("books", (".epub",), _office),
    _Format("mail", (".eml",), _office),
    _Format("tables", (".csv", ".tsv"), _table),
    _Format("notebooks", (".ipynb",), _notebook),
    _CODE,
)
_BY_SUFFIX = {suffix: form for form in _FORMATS for suffix in form.suffixes}

SUFFIXES = tuple(sorted(_BY_SUFFIX))
"""Files with these suffixes are read, in upper or lower case."""

TYPES = " and ".join([", ".join(form.word for form in _FORMATS[:-1]), _FORMATS[-1].word])
"""The same in words."""


def _format(suffix: str) -> _Format:
    """The format of files with a suffix; text where there is none."""
    return _BY_SUFFIX.get(suffix, _TEXT)
