"""Word, PowerPoint, Excel, EPUB and e-mail to Markdown."""

from __future__ import annotations

import email
import email.policy
import io
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote

from bs4 import BeautifulSoup

from refrag_components.exceptions import DocumentError
from refrag_components.text.encodings import decode_declared
from refrag_components.text.html import html_title_and_text
from refrag_components.text.tables import markdown_table

__all__ = ["OFFICE", "office_contents"]

_TITLE_STYLE = "p[style-name='Title'] => h1.title:fresh"
_NO_TITLE = "PowerPoint Presentation"  # what PowerPoint puts where nobody puts one


def office_contents(data: bytes, suffix: str) -> tuple[str, str]:
    """The title of a document, "" if it has none, and its text.

    Args:
        data: Its bytes.
        suffix: One of ``OFFICE``.

    Raises:
        DocumentError: If it cannot be read, or if the extra that reads it is not installed.
    """
    try:
        return OFFICE[suffix](data)
    except (DocumentError, MemoryError):
        raise
    except ImportError as error:
        msg = f"needs an extra: pip install 'refrag-components[office]' ({error})"
        raise DocumentError(msg) from error
    except Exception as error:  # each library has its own, and broken files raise others
        raise DocumentError(
            f"is not a readable {suffix[1:]} file; save it again: {error}"
        ) from error


def _docx(data: bytes) -> tuple[str, str]:
    import mammoth

    page = mammoth.convert_to_html(io.BytesIO(data), style_map=_TITLE_STYLE).value
    title = BeautifulSoup(page, "lxml").select_one("h1.title")
    text = html_title_and_text(page, whole=True)[1]
    return "" if title is None else " ".join(title.get_text().split()), text


def _pptx(data: bytes) -> tuple[str, str]:
    from pptx import Presentation

    deck = Presentation(io.BytesIO(data))
    slides = ["\n\n".join(_slide(slide)) for slide in deck.slides]
    title = deck.core_properties.title or ""
    if title in ("", _NO_TITLE) and slides:
        first = slides[0].split("\n")[0]
        title = first.removeprefix("# ") if first.startswith("# ") else ""
    return title, "\n\n".join(slides)


def _slide(slide: Any) -> Iterator[str]:
    title = slide.shapes.title
    if title is not None and title.has_text_frame and title.text_frame.text.strip():
        yield f"# {' '.join(title.text_frame.text.split())}"
    yield from _shapes(shape for shape in slide.shapes if shape != title)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        yield notes.text


def _shapes(shapes: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        elif getattr(shape, "has_table", False):
            yield markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
        elif shape.has_text_frame and shape.text_frame.text.strip():
            yield shape.text_frame.text


def _xlsx(data: bytes) -> tuple[str, str]:
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    parts = []
    for name in book.sheet_names:
        rows = [[_value(v) for v in row] for row in book.get_sheet_by_name(name).to_python()]
        rows = [row for row in rows if any(row)]
        if rows:
            parts += [f"# {name}", markdown_table(rows)]
    return "", "\n\n".join(parts)


def _value(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value) if whole else value)


def _epub(data: bytes) -> tuple[str, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        container = BeautifulSoup(book.read("META-INF/container.xml"), "xml")
        root = container.find("rootfile")
        if root is None:
            raise DocumentError("is not a readable epub file; save it again: it names no contents")
        place = str(root["full-path"])
        package = BeautifulSoup(book.read(place), "xml")
        files = {str(item["id"]): unquote(str(item["href"])) for item in package.find_all("item")}
        chapters = []
        for reference in package.find_all("itemref"):
            name = posixpath.join(posixpath.dirname(place), files.get(str(reference["idref"]), ""))
            if posixpath.normpath(name) in book.namelist():
                source, _ = decode_declared(book.read(posixpath.normpath(name)))
                chapters.append(html_title_and_text(source, whole=True)[1])
        title = package.find("title")
    return title.get_text().strip() if title else "", "\n\n".join(filter(None, chapters))


def _eml(data: bytes) -> tuple[str, str]:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    subject = str(message["subject"] or "").strip()
    body = message.get_body(("plain", "html"))
    text = "" if body is None else str(body.get_content())
    if body is not None and body.get_content_subtype() == "html":
        text = html_title_and_text(text, whole=True)[1]
    heads = (f"{name}: {message[name]}" for name in ("From", "To", "Date") if message[name])
    return subject, "\n\n".join(filter(None, ["\n".join(heads), text.strip()]))


OFFICE: dict[str, Callable[[bytes], tuple[str, str]]] = {
    ".docx": _docx,
    ".eml": _eml,
    ".epub": _epub,
    ".pptx": _pptx,
    ".xlsx": _xlsx,
}
"""How each of these types is read, by suffix."""
