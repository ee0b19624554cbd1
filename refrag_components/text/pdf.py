"""PDF to text, page by page."""

from __future__ import annotations

import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pypdf import PdfReader
from pypdf.errors import DependencyError
from pypdfium2 import PdfDocument, PdfiumError, PdfPage
from pypdfium2.raw import FORMTYPE_NONE, FPDF_ERR_PASSWORD, FPDF_PAGEOBJ_IMAGE

from refrag_components.exceptions import DocumentError
from refrag_components.text.pdf_lines import page_text
from refrag_components.text.plausibility import looks_broken

__all__ = ["joined_pages", "pdf_contents"]

_RECOGNISE = "text recognition may help: ocrmypdf --force-ocr IN.pdf OUT.pdf"
_PASSWORD = "is encrypted; save it without a password"
_HYPHENATED = re.compile(r"(\w+)(?:[\x02\ufffe]|-\n)\s*(\w+)")
_CUT_WORD = re.compile(r"\w+(?:[\x02\ufffe]|-\n)\s*\Z")
_LIGATURES = re.compile("[\ufb00-\ufb06]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_NO_TITLE = re.compile(
    r"untitled|.*\.(?:docx?|pdf|tex|dvi|indd|pptx?|xlsx?|html?)|microsoft .*|\W*", re.I
)
_CLOSED = re.compile(
    r"#.*|.*[.!?:\u2026|][\"'\u201d\u2019)\]]*"
)  # lines after which nothing goes on
_FAILED, _SCAN, _BROKEN = "damaged", "a picture without text", "text looks broken"


class _Page(NamedTuple):
    """The text of a page, or why it has none."""

    text: str
    reason: str = ""


def pdf_contents(data: bytes) -> tuple[str, str, list[tuple[int, int]], str]:
    """The title of a PDF, its text, where each page of it begins, and which pages are left out.

    Pages are apart by an empty line, unless a sentence goes on; tables, and the headings that
    bookmarks name, are in Markdown. Where each page begins is the offset of its first character,
    with its number; pages without text are not there.

    Raises:
        DocumentError: If it is not a PDF, needs a password, or holds no text that can be read.
    """
    title, pages = _read(data)
    words = _Words(page.text for page in pages)
    out: dict[str, list[int]] = defaultdict(list)
    kept: dict[int, str] = {}
    for number, page in enumerate(pages, start=1):
        text = _clean(page.text, words)
        if reason := page.reason or (_BROKEN if looks_broken(text) else ""):
            out[reason].append(number)
        elif text := _CONTROL.sub("", text).strip():
            kept[number] = text
    left_out = ", ".join(f"{_numbered(numbers)} ({reason})" for reason, numbers in out.items())
    advice = f"; {_RECOGNISE}" if out.keys() - {_FAILED} else ""
    if kept:
        text, places = joined_pages(kept, words)
        return title, text, places, left_out and f"was read without {left_out}{advice}"
    raise DocumentError(
        f"holds no text that can be read: {left_out}{advice}"
        if left_out
        else f"holds no text; {_RECOGNISE}"
    )


def joined_pages(
    pages: Mapping[int, str], words: _Words | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """Pages one after another; a sentence that goes on is not cut, and a word neither.

    Args:
        pages: The text of each, by its number.
        words: Say which words that a page cuts have a hyphen; None leaves them as they are.

    Returns:
        The text; for each page the offset of its first character, after a word that it shares with
        the page before, and its number.
    """
    text, places = "", []
    for number, page in pages.items():
        line = text.rfind("\n") + 1  # the last one
        goes_on = page[:1].islower() and not _CLOSED.fullmatch(text[line:])
        begins = len(text) + (0 if not text else 1 if goes_on else 2)
        text += "\n" * (begins - len(text)) + page
        if words is not None and goes_on and (cut := _CUT_WORD.search(text, line, begins)):
            whole = _HYPHENATED.match(text, cut.start())
            if whole is not None:
                joined = words.joined(whole)
                text = text[: whole.start()] + joined + text[whole.end() :]
                begins = whole.start() + len(joined)
        places.append((begins, number))
    return text, places


def _numbered(pages: Sequence[int]) -> str:
    shown = ", ".join(map(str, pages[:5])) + (", ..." if len(pages) > 5 else "")
    return f"page{'' if len(pages) == 1 else 's'} {shown}"


def _read(data: bytes) -> tuple[str, list[_Page]]:
    """Title and pages with PDFium, or else with pypdf, which reads some that PDFium refuses."""
    try:
        document = PdfDocument(data)
    except PdfiumError as error:
        if error.err_code == FPDF_ERR_PASSWORD:
            raise DocumentError(_PASSWORD) from error
        return _read_otherwise(data)
    try:
        if document.get_formtype() != FORMTYPE_NONE:
            document.init_forms()
        title = document.get_metadata_value("Title").strip()
        headings = _headings(document)
        pages = [_page(document, i, headings[i]) for i in range(len(document))]
    finally:
        document.close()
    return "" if _NO_TITLE.fullmatch(title) else title, pages


def _page(document: PdfDocument, number: int, headings: dict[str, int]) -> _Page:
    try:
        page = document[number]
        if document.formenv is not None:  # what was typed into a form becomes part of the page
            page.flatten()
            page.close()
            page = document[number]
        text = page_text(page.get_textpage())
        if not text.strip():
            return _Page("", _SCAN if _has_picture(page) else "")
    except PdfiumError:
        return _Page("", _FAILED)
    lines = text.split("\n")
    for i, line in enumerate(lines):
        level = headings.pop(_name(line), None) if headings else None
        if level is not None:
            lines[i] = f"\n{'#' * level} {line}\n"
    return _Page("\n".join(lines))


def _has_picture(page: PdfPage) -> bool:
    return any(True for _ in page.get_objects(filter=[FPDF_PAGEOBJ_IMAGE], max_depth=3))


def _headings(document: PdfDocument) -> dict[int, dict[str, int]]:
    """Page -> heading -> its level, from 1, as bookmarks have them."""
    headings: dict[int, dict[str, int]] = defaultdict(dict)
    try:
        for bookmark in document.get_toc(max_depth=6):
            target = bookmark.get_dest()
            page = None if target is None else target.get_index()
            if page is not None and (name := _name(bookmark.get_title())):
                headings[page][name] = min(bookmark.level + 1, 6)
    except (PdfiumError, ValueError):  # bookmarks may be broken where the text is not
        return defaultdict(dict)
    return headings


def _name(line: str) -> str:
    """A heading as it is compared: numbers before it, spaces and case do not matter."""
    return "".join(re.sub(r"^[\s\d.]+", "", line).split()).casefold()


def _read_otherwise(data: bytes) -> tuple[str, list[_Page]]:
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError(_PASSWORD)
        return "", list(_pypdf_pages(reader))
    except DependencyError as error:
        raise DocumentError(_PASSWORD) from error
    except (DocumentError, MemoryError):
        raise
    except Exception as error:  # broken PDFs make pypdf raise almost anything
        raise DocumentError(f"is not a readable PDF; save it again: {error}") from error


def _pypdf_pages(reader: PdfReader) -> Iterator[_Page]:
    for page in reader.pages:
        try:
            yield _Page(page.extract_text())
        except MemoryError:
            raise
        except Exception:
            yield _Page("", _FAILED)


class _Words:
    """Says whether a word that is cut at the end of a line has a hyphen elsewhere."""

    def __init__(self, pages: Iterable[str]) -> None:
        whole = "\n".join(pages).casefold()
        self._plain = set(re.findall(r"\w+", whole))
        self._hyphenated = set(re.findall(r"\w+-\w+", whole))

    def joined(self, match: re.Match[str]) -> str:
        first, second = match[1], match[2]
        with_hyphen = f"{first}-{second}"
        if with_hyphen.casefold() in self._hyphenated:
            return with_hyphen
        plain = (first + second).casefold() in self._plain
        # Names and numbers are not cut at syllables.
        name = second[0].isupper() or second[0].isdigit() or first[-1].isdigit()
        return with_hyphen if name and not plain else first + second


def _clean(text: str, words: _Words) -> str:
    text = _LIGATURES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _HYPHENATED.sub(words.joined, text.replace("\r", ""))
    return text.strip()
