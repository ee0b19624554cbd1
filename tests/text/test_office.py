"""Office documents, books and letters; what needs the extra is refused by its name without it."""

from __future__ import annotations

import sys
import zipfile

import pytest

from refrag_components.exceptions import DocumentError
from refrag_components.text.extraction import extract
from tests import made_files

TABLE = (
    "| Port | Ships | Cargo |\n| --- | --- | --- |\n| Eastport | 0 | 2,248 |\n"
    "| Rosk | 12 | 31 |\n| Old town |  | 7 |"
)


def test_reads_word_documents() -> None:
    pytest.importorskip("mammoth")
    assert extract(made_files.docx(), ".docx").text == (
        f"# History\n\nThe harbour was dug in 1907.\n\n{TABLE}"
    )


def test_a_word_documents_title_is_told_from_its_headings() -> None:
    pytest.importorskip("mammoth")
    found = extract(made_files.docx("The  ports"), ".docx")
    assert found.title == "The ports"
    assert found.text.startswith("# The ports\n\n# History\n\n")
    assert extract(made_files.docx(), ".docx").title == ""


def test_reads_sheets() -> None:
    pytest.importorskip("python_calamine")
    assert extract(made_files.xlsx(), ".xlsx").text == f"# Traffic\n\n{TABLE}"


def test_reads_slides() -> None:
    pytest.importorskip("pptx")
    found = extract(made_files.pptx("Ports"), ".pptx")
    assert found.title == "Ports"
    assert found.text == f"# Traffic\n\n{TABLE}\n\nShips are counted once."


@pytest.mark.parametrize("title", ["", "PowerPoint Presentation"])
def test_slides_without_a_title_have_that_of_the_first(title: str) -> None:
    pytest.importorskip("pptx")
    assert extract(made_files.pptx(title), ".pptx").title == "Traffic"


def test_reads_books_in_their_order() -> None:
    found = extract(made_files.epub(), ".epub")
    assert (found.title, found.text) == (
        "Ports",
        f"# History\n\nDug in 1907.\n\n# Trade\n\n{TABLE}",
    )


def test_reads_letters() -> None:
    found = extract(made_files.EML.encode(), ".eml")
    assert found.title == "The mole \u2013 a plan"
    assert found.text.endswith("\n\nFalochron leży na północ.")
    assert "From: Ada <ada@example.org>" in found.text


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_reads_tables(suffix: str) -> None:
    separator = "\t" if suffix == ".tsv" else ";"
    lines = "\n".join(separator.join(f'"{cell}"' for cell in row) for row in made_files.TABLE)
    assert extract(lines.encode(), suffix).text == TABLE


@pytest.mark.parametrize(
    ("suffix", "module"),
    [(".docx", "mammoth"), (".xlsx", "python_calamine"), (".pptx", "pptx")],
)
def test_the_extra_is_named(suffix: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DocumentError, match=r"pip install 'refrag-components\[office\]'"):
        extract(b"x", suffix)


@pytest.mark.parametrize("suffix", [".docx", ".epub", ".pptx", ".xlsx"])
@pytest.mark.parametrize("data", [b"", b"PK\3\4", made_files.zipped({"a": "b"})])
def test_broken_documents_are_refused(suffix: str, data: bytes) -> None:
    with pytest.raises(DocumentError, match=r"is not a readable|needs an extra"):
        extract(data, suffix)


def test_an_archive_that_grows_without_end_is_refused(tmp_path) -> None:
    from refrag_components.text.documents import Skipped, load_document

    path = tmp_path / "a.epub"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", " " * 200_000_000)
    assert isinstance(load_document(path), Skipped)
