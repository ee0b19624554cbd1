"""What is read of documents of each type, and how long that takes: the table of docs/documents.md.

    python benchmarks/documents.py
    python benchmarks/documents.py --before extraction.py

The documents are made by tests/made_files.py. Each is read by this library and by libraries used
plainly: one call, default settings. With --before, a file with an earlier ``extract(data, suffix)``
that returns a text, that one is read too. A document counts as right if what it says is in the text
and what it does not say is not, and its table as usable if each number can be told from its
neighbours and its column.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from refrag_components.text.extraction import extract
from refrag_components.text.tables import markdown_row, markdown_table
from tests import made_files

Read = Callable[[bytes, str], str]
ROWS = [["Eastport", "0", "2,248"], ["Rosk", "12", "31"], ["Old town", "", "7"]]
REPEATS = 5


@dataclass(frozen=True)
class Case:
    """A document and what has to come of it.

    Attributes:
        name: In the table.
        suffix: Of its name.
        data: The document.
        says: Texts that it holds.
        says_not: Texts that it does not hold.
        table: Whether it holds the table of ``made_files``.
        pages: Number of its pages, for times per page.
    """

    name: str
    suffix: str
    data: bytes
    says: tuple[str, ...]
    says_not: tuple[str, ...] = ()
    table: bool = False
    pages: int = 1


def cases() -> list[Case]:
    """All documents."""
    page = made_files.PAGE.encode()
    around = ("Home", "cookie", "promo", "spam", "Edition", "Imprint", "svg text", "Other ports")
    readme = made_files.README.encode()
    found = [
        Case(
            "PDF, lines",
            ".pdf",
            made_files.pdf("First page", "Second"),
            ("First page",),
            (),
            False,
            2,
        ),
        Case(
            "PDF, spaces by place",
            ".pdf",
            made_files.narrow_spaces_pdf(),
            ("What is Earth Science",),
        ),
        Case(
            "PDF, hyphens, ligatures",
            ".pdf",
            made_files.hyphens_pdf(),
            ("efficient harbour", "an efficient firm", "well-known harbour", "Anglo-Saxon"),
        ),
        Case(
            "PDF, bookmarks",
            ".pdf",
            made_files.bookmarked_pdf(),
            ("# 1 History", "# 2 Trade"),
            (),
            False,
            2,
        ),
        Case("PDF, table", ".pdf", made_files.table_pdf(), ("Traffic of the ports",), (), True),
        Case("PDF, columns", ".pdf", made_files.columns_pdf(), ("words,\nLeft line 1",)),
        Case("PDF, form", ".pdf", made_files.form_pdf(), ("Eastport harbour",)),
        Case("PDF, AES, open", ".pdf", made_files.aes_pdf(), ("Open to all",)),
        Case("PDF, broken page", ".pdf", made_files.soup_pdf(), ("When the tide",), ("WKH", "KDO")),
        Case("PDF, full pages", ".pdf", made_files.long_pdf(), ("Line 49 holds",), (), False, 9),
        Case("HTML, surroundings", ".html", page, ("dug in 1907", "10^6", "1 History"), around),
        Case("HTML, neighbours", ".html", page, ("12 euro",), ("1012", "1History")),
        Case("Markdown", ".md", readme, ("Harbour", "a * b"), ("https://", "do not edit", "badge")),
        Case("EPUB", ".epub", made_files.epub(), ("Dug in 1907", "Trade"), (), True),
        Case("Word", ".docx", made_files.docx(), ("dug in 1907",), (), True),
        Case("PowerPoint", ".pptx", made_files.pptx("Ports"), ("counted once",), (), True),
        Case("Excel", ".xlsx", made_files.xlsx(), ("Traffic",), (), True),
        Case("CSV", ".csv", made_files.CSV.encode(), ("Rosk",), (), True),
        Case(
            "notebook",
            ".ipynb",
            made_files.NOTEBOOK.encode(),
            ("# Tides", "See this", "1 + 1"),
            ("https", "2 outputs", "cell_type"),
        ),
        Case("code", ".py", made_files.CODE.encode(), (made_files.CODE.strip(),)),
        Case("JSON", ".json", made_files.JSON.encode(), (made_files.JSON,)),
        Case("reStructuredText", ".rst", made_files.RST.encode(), ("# Ports", "## History")),
        Case("e-mail", ".eml", made_files.EML.encode(), ("leży na północ", "Ada"), ("<p>",)),
    ]
    for language, encoding in made_files.ENCODINGS:
        text = made_files.SENTENCES[language]
        found.append(Case("text, 15 encodings", ".txt", text.encode(encoding), (text,)))
        if "utf" not in encoding:
            data = made_files.declared_page(language, encoding)
            found.append(Case("HTML, 13 encodings", ".html", data, (text,)))
    return found


def usable(text: str) -> bool:
    """Whether every row of the table is there with its cells apart and in their columns."""
    lines = [re.split(r"\s*[|\t]\s*", line.strip().strip("|").strip()) for line in text.split("\n")]
    return all(row in lines for row in ROWS)


def ours(data: bytes, suffix: str) -> str:
    """The text, or why there is none."""
    return extract(data, suffix).text


def pypdf(data: bytes, suffix: str) -> str:
    """PDF."""
    from pypdf import PdfReader

    return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)


def pdfium(data: bytes, suffix: str) -> str:
    """PDF."""
    from pypdfium2 import PdfDocument

    pages = (page.get_textpage().get_text_bounded() for page in PdfDocument(data))
    return "\n\n".join(pages).replace("\r", "")


def pdfplumber(data: bytes, suffix: str) -> str:
    """PDF."""
    import pdfplumber

    with pdfplumber.open(io.BytesIO(data)) as document:
        return "\n\n".join(page.extract_text() for page in document.pages)


def trafilatura(data: bytes, suffix: str) -> str:
    """HTML."""
    import trafilatura

    return trafilatura.extract(data, output_format="markdown", include_tables=True) or ""


def soup(data: bytes, suffix: str) -> str:
    """HTML."""
    from bs4 import BeautifulSoup

    return BeautifulSoup(data, "lxml").get_text()


def markitdown(data: bytes, suffix: str) -> str:
    """Everything."""
    from markitdown import MarkItDown, StreamInfo

    stream = StreamInfo(extension=suffix)
    return MarkItDown().convert_stream(io.BytesIO(data), stream_info=stream).text_content


def charset_normalizer(data: bytes, suffix: str) -> str:
    """Text."""
    from charset_normalizer import from_bytes

    return str(from_bytes(data).best())


def before(path: Path) -> Read:
    """``extract`` of an earlier version of this library."""
    spec = importlib.util.spec_from_file_location("before", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def read(data: bytes, suffix: str) -> str:
        if suffix not in (".htm", ".html", ".md", ".pdf", ".rst", ".txt"):
            raise ValueError("of a type that was not read")
        return str(module.extract(data, suffix))

    return read


def result(read: Read, group: list[Case]) -> str:
    """A cell of the table: text, table, milliseconds of computing per page."""
    right, tables, times = 0, 0, []
    for case in group:
        spent, text = [], ""
        for _ in range(REPEATS):
            start = time.process_time()
            try:
                with redirect_stderr(io.StringIO()):
                    text = read(case.data, case.suffix)
            except ImportError:
                return "-"
            except Exception:
                text = ""
            spent.append(1000 * (time.process_time() - start) / case.pages)
        joined = re.sub(r"[^\S\n]+", " ", text)
        said = all(re.sub(r"[^\S\n]+", " ", part) in joined for part in case.says)
        right += said and not any(part in joined for part in case.says_not)
        tables += usable(text)
        times.append(median(spent))
    shown = [f"{right} of {len(group)}" if len(group) > 1 else ("yes" if right else "no")]
    if group[0].table:
        shown.append("yes" if tables else "no")
    return f"{', '.join(shown)}; {median(times):.1f}"


READERS: dict[str, tuple[Read, tuple[str, ...]]] = {
    "pypdf": (pypdf, (".pdf",)),
    "pypdfium2": (pdfium, (".pdf",)),
    "pdfplumber": (pdfplumber, (".pdf",)),
    "trafilatura": (trafilatura, (".html",)),
    "bs4": (soup, (".html",)),
    "charset-normalizer": (charset_normalizer, (".txt",)),
    "markitdown": (markitdown, ("",)),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    groups: dict[str, list[Case]] = {}
    for case in cases():
        groups.setdefault(case.name, []).append(case)
    readers: dict[str, tuple[Read, tuple[str, ...]]] = {"this library": (ours, ("",))}
    if arguments.before is not None:
        readers["before"] = (before(arguments.before), ("",))
    readers |= READERS
    print(markdown_table([["document", *readers]]))
    for name, group in groups.items():
        cells = [
            result(read, group) if suffixes == ("",) or group[0].suffix in suffixes else ""
            for read, suffixes in readers.values()
        ]
        print(markdown_row([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
