"""PDFs are read page by page, and what cannot be read is told."""

from __future__ import annotations

import re

import pytest
from pypdf import PdfReader
from pypdf.errors import DependencyError

from refrag_components.exceptions import DocumentError
from refrag_components.text import pdf as reader
from refrag_components.text import pdf_lines
from refrag_components.text.documents import DocumentReader
from refrag_components.text.extraction import extract
from tests import made_files
from tests.made_files import drawn_pdf, encrypted, lines, pdf


def text(data: bytes) -> str:
    return extract(data, ".pdf").text


def refusal(data: bytes) -> str:
    with pytest.raises(DocumentError) as error:
        extract(data, ".pdf")
    return str(error.value)


def test_reads_pages() -> None:
    assert text(pdf("First page", "Second")) == "First page\n\nSecond"


def test_words_are_apart_where_they_look_apart() -> None:
    assert text(made_files.narrow_spaces_pdf()) == "What is Earth Science ?"


def test_cells_stay_in_their_columns() -> None:
    assert text(made_files.table_pdf()).split("\n\n") == [
        "Traffic of the ports in a year",
        "| Port | Ships | Cargo |\n| --- | --- | --- |\n| Eastport | 0 | 2,248 |\n"
        "| Rosk | 12 | 31 |\n| Old town |  | 7 |",
        "Ships are counted once. Cargo is in tonnes.",
    ]


def test_columns_are_read_one_after_the_other() -> None:
    read = text(made_files.columns_pdf())
    assert "|" not in read
    assert read.index("Left line 5") < read.index("Right line 0")


def test_words_cut_at_line_ends_and_ligatures_are_made_whole() -> None:
    assert text(made_files.hyphens_pdf()) == (
        "The efficient harbour of Eastport was dug by an efficient firm in 1907. It is a "
        "well-known harbour, well-known to the sailors of the Anglo-Saxon coast."
    )


def test_sentences_and_words_go_on_over_pages() -> None:
    pages = ["The harbour was dug", "in 1907 by an ef-", "ficient firm.", "it is deep.", "Ships"]
    assert text(pdf(*pages)) == (
        "The harbour was dug\nin 1907 by an efficient firm.\n\nit is deep.\n\nShips"
    )
    # Tables and headings end with a page.
    joined, places = reader.joined_pages({1: "| a | b |", 2: "# History", 4: "is"})
    assert joined == "| a | b |\n\n# History\n\nis"
    assert places == [(0, 1), (11, 2), (22, 4)]


def test_a_cut_word_is_looked_for_in_the_last_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning of the text, a book of some hundred pages would take minutes."""
    looked_at = []

    class Counted:
        def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
            looked_at.append(end - start)
            return cut_word.search(text, start, end)

    cut_word = reader._CUT_WORD
    monkeypatch.setattr(reader, "_CUT_WORD", Counted())
    pages = {number: "and so\nit goes on with an ex-" for number in range(1, 50)}
    text, places = reader.joined_pages(pages, reader._Words(pages.values()))
    assert text.count("with an exand so\n") == 48
    assert [text[place : place + 3].strip() for place, _ in places] == ["and", *(48 * ["so"])]
    assert max(looked_at) <= len("it goes on with an ex-\n")


def test_what_was_typed_into_a_form_is_read() -> None:
    assert text(made_files.form_pdf()) == "Name of the port:\nEastport harbour"


def test_bookmarks_mark_headings() -> None:
    assert text(made_files.bookmarked_pdf()).split("\n\n") == [
        "# 1 History",
        "The harbour was dug in 1907.",
        "# 2 Trade",
        "Grain and salt were traded.",
    ]


def test_a_page_that_looks_broken_is_left_out_and_told() -> None:
    found = extract(made_files.soup_pdf(), ".pdf")
    assert found.text.startswith("When the tide turns")
    assert "KLV" not in found.text and "WKH" not in found.text
    assert found.warning == (
        "was read without page 2 (text looks broken); text recognition may help: "
        "ocrmypdf --force-ocr IN.pdf OUT.pdf"
    )


def test_a_damaged_page_does_not_cost_the_others() -> None:
    damaged = pdf("First page", "Second", "Third").replace(b"[4 0 R 6 0 R", b"[4 0 R 3 0 R")
    found = extract(damaged, ".pdf")
    assert found.text == "First page\n\nThird"
    assert found.warning.startswith("was read without page 2 (damaged)")


def test_control_characters_are_no_text() -> None:
    assert "holds no text" in refusal(drawn_pdf(lines(["\\020\\021\\022\\023"])))
    assert refusal(drawn_pdf(lines(["\\020\\021\\022\\023" * 9] * 9))).startswith("holds no text")


def test_a_scan_is_told_with_what_to_do() -> None:
    assert "ocrmypdf" in refusal(pdf(""))
    picture = (
        "<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray "
        "/BitsPerComponent 8 /Length 1 >>\nstream\nA\nendstream"
    )
    resources = "/Resources << /Font << /F1 3 0 R >> /XObject << /I 8 0 R >> >>"
    scan = drawn_pdf("q 500 0 0 500 50 50 cm /I Do Q", lines(["Text"]), more=[picture])
    scan = scan.replace(b"/Resources << /Font << /F1 3 0 R >> >>", resources.encode())
    found = extract(scan, ".pdf")
    assert found.text == "Text"
    assert "page 1 (a picture without text)" in found.warning


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_that_only_its_owner_may_change_is_read(algorithm: str) -> None:
    aes = algorithm == "AES-256"
    data = made_files.aes_pdf() if aes else encrypted(pdf("Open to all"), "", "secret")
    assert text(data) == "Open to all"


def test_an_encrypted_pdf_is_refused() -> None:
    assert refusal(encrypted(pdf("Closed"), "user", "secret")) == (
        "is encrypted; save it without a password"
    )


def test_what_pdfium_refuses_is_read_with_pypdf(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise reader.PdfiumError("refused", err_code=3)

    monkeypatch.setattr(reader, "PdfDocument", refuse)
    assert text(pdf("First page", "Second")) == "First page\n\nSecond"
    assert "is encrypted" in refusal(encrypted(pdf("Closed"), "user", "secret"))

    def cannot(*_: object) -> None:
        raise DependencyError("cryptography is required")

    monkeypatch.setattr(PdfReader, "decrypt", cannot)
    assert "is encrypted" in refusal(encrypted(pdf("Closed"), "", "secret"))


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4 nothing more", pdf("text")[:150], b"\0" * 99])
def test_a_broken_pdf_is_refused(content: bytes) -> None:
    assert "is not a readable PDF" in refusal(content)


def test_damaged_pdfs_never_crash(tmp_path_factory: pytest.TempPathFactory) -> None:
    whole, path = pdf("Some text"), tmp_path_factory.mktemp("pdf") / "a.pdf"
    with DocumentReader() as documents:
        for position in range(0, len(whole), 7):
            path.write_bytes(whole[:position] + b"\xff<<[(" + whole[position + 5 :])
            documents.load(path)


def test_a_page_takes_no_more_calls_than_it_has_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time itself is measured by benchmarks/documents.py."""
    calls = 0
    whole = pdf_lines.FPDFText_GetLooseCharBox

    def count(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return whole(*arguments)

    monkeypatch.setattr(pdf_lines, "FPDFText_GetLooseCharBox", count)
    read = text(made_files.long_pdf(2))
    assert 0 < calls <= len(read)
