from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.errors import DependencyError

from refrag_components.exceptions import DocumentError
from refrag_components.text import documents
from refrag_components.text.documents import (
    Document,
    DocumentReader,
    Skipped,
    find_files,
    load_document,
    load_documents,
)
from refrag_components.text.extraction import extract


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 {size}\n0000000000 65535 f \n{table}".encode() + trailer.encode()


def encrypted(data: bytes, user: str, owner: str) -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(data)))
    writer.encrypt(user, owner, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def load(path: Path, content: bytes | str) -> Document | Skipped:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_document(path)


def reason(result: Document | Skipped) -> str:
    assert isinstance(result, Skipped)
    return result.reason


def text(result: Document | Skipped) -> str:
    assert isinstance(result, Document)
    return result.text


# -- finding ------------------------------------------------------------------------------------


def test_finds_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.md", "a.txt", "c.html", ".hidden.txt", ".git/x.txt", "b/.x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert names == ["a.txt", "b/a.md", "b/z.txt", "c.html"]


def test_paths_are_the_same_however_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").touch()
    (tmp_path / "link").symlink_to("docs")
    monkeypatch.chdir(tmp_path)
    expected = [tmp_path / "docs" / "a.txt"]
    for name in ("docs", "./docs/", tmp_path / "docs", "docs/../link"):
        assert list(find_files(name)) == expected


def test_a_missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"nowhere does not exist"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(DocumentError, match=r"nowhere does not exist"):
        load_documents(tmp_path / "nowhere")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DocumentError, match=r"a\.txt is a file"):
        find_files(tmp_path / "a.txt")


def test_an_empty_folder_gives_nothing(tmp_path: Path) -> None:
    assert list(load_documents(tmp_path)) == []


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.txt").write_text("text")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed, opened = load_documents(tmp_path)
    assert closed == Skipped(str(tmp_path / "closed"), "is a folder that cannot be listed")
    assert text(opened) == "text"


# -- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst", ".TXT"])
def test_reads_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    result = load(path, "# Títle\n\n北京 text\n")
    assert isinstance(result, Document)
    assert (result.path, result.text, result.metadata) == (str(path), "# Títle\n\n北京 text", {})


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"]
)
def test_reads_common_encodings(tmp_path: Path, encoding: str) -> None:
    assert text(load(tmp_path / "a.txt", "naïve Straße".encode(encoding))) == "naïve Straße"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"caf\xe9 \x81\x8d", "unknown encoding"),
        (b"\xff\xfea\0b", "unknown encoding"),
        (b"", "no text"),
        (b" \n\t\n", "no text"),
    ],
)
def test_skips_what_is_not_text(tmp_path: Path, content: bytes, expected: str) -> None:
    result = load(tmp_path / "a.txt", content)
    assert expected in reason(result)
    assert result.path == str(tmp_path / "a.txt")


def test_skips_other_kinds_of_files(tmp_path: Path) -> None:
    assert reason(load(tmp_path / "a.docx", "x")).startswith("is not one of .htm, .html, .md, .pdf")


def test_skips_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 2 * 2**20)
    assert text(load(tmp_path / "a.txt", "x" * 2 * 2**20))
    assert reason(load(tmp_path / "a.txt", "x" * 3 * 2**20)) == "has 3 MB, more than 2 MB"


def test_skips_what_is_not_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe.txt")
    assert [reason(result) for result in load_documents(tmp_path)] == ["is not a regular file"] * 3


def test_skips_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert reason(load_document(tmp_path / "a.txt")) == "cannot be read: Permission denied"


def test_skips_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")
    try:
        Path(name).write_text("text")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (result,) = load_documents(tmp_path)
    assert reason(result) == "has a name that is not UTF-8"
    result.path.encode()


# -- HTML ---------------------------------------------------------------------------------------


def test_reads_html(tmp_path: Path) -> None:
    source = """<!doctype html>
    <html><head><title>A  title</title><style>p {color: red}</style></head>
    <body><!-- comment --><script>alert("x")</script><noscript>No script</noscript>
    <h1>Head</h1><p>Some <b>bold</b>
       text<br>next&nbsp;line &amp; more<p>Unclosed
    <ul><li>one</li><li>two</li></ul>
    <table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>
    <pre>def f():\n    return 1</pre>tail</body></html>"""
    assert text(load(tmp_path / "a.html", source)).split("\n\n") == [
        "A title",
        "Head",
        "Some bold text\nnext line & more",
        "Unclosed",
        "one\ntwo",
        " a b\n c",
        "def f():\n    return 1",
        "tail",
    ]


def test_deeply_nested_html_is_read(tmp_path: Path) -> None:
    assert text(load(tmp_path / "a.htm", "<div>" * 5000 + "deep")) == "deep"


def test_html_without_text_is_skipped(tmp_path: Path) -> None:
    assert reason(load(tmp_path / "a.html", "<script>1</script>")) == "holds no text"


# -- PDF ----------------------------------------------------------------------------------------


def test_reads_pdf(tmp_path: Path) -> None:
    assert text(load(tmp_path / "a.pdf", pdf("First page", "Second"))) == "First page\n\nSecond"


def test_reads_a_pdf_that_only_its_owner_may_change(tmp_path: Path) -> None:
    assert text(load(tmp_path / "a.pdf", encrypted(pdf("Open"), "", "secret"))) == "Open"


def test_skips_an_encrypted_pdf(tmp_path: Path) -> None:
    result = load(tmp_path / "a.pdf", encrypted(pdf("Closed"), "user", "secret"))
    assert reason(result) == "is encrypted; save it without a password"


def test_skips_a_pdf_whose_cipher_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DependencyError("cryptography is required")

    data = encrypted(pdf("Closed"), "user", "secret")
    monkeypatch.setattr(PdfReader, "decrypt", refuse)
    with pytest.raises(DocumentError, match="is encrypted"):
        extract(data, ".pdf")


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4 nothing more", pdf("text")[:150], b"\0" * 99])
def test_skips_a_broken_pdf(tmp_path: Path, content: bytes) -> None:
    assert "is not a readable PDF" in reason(load(tmp_path / "a.pdf", content))


def test_skips_a_scanned_pdf(tmp_path: Path) -> None:
    assert "text recognition" in reason(load(tmp_path / "a.pdf", pdf("")))


def test_damaged_pdfs_never_crash(tmp_path: Path) -> None:
    whole, path = pdf("Some text"), tmp_path / "a.pdf"
    with DocumentReader() as reader:
        for position in range(0, len(whole), 7):
            path.write_bytes(whole[:position] + b"\xff<<[(" + whole[position + 5 :])
            reader.load(path)


# -- documents ----------------------------------------------------------------------------------


def test_the_text_of_an_unchanged_file_is_not_extracted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    first = load(path, "one")
    assert isinstance(first, Document)
    assert load_document(path, known_digest=first.digest) == Document(
        str(path), "", digest=first.digest
    )
    path.write_text("two")
    second = load_document(path, known_digest=first.digest)
    assert isinstance(second, Document)
    assert second.text == "two"
    assert second.digest != first.digest


def test_a_documents_digest_changes_with_text_and_metadata() -> None:
    digests = {
        Document("name", "text").digest,
        Document("name", "text 2").digest,
        Document("name", "text", {"page": 1}).digest,
        Document("name", "text", {"page": 2}).digest,
    }
    assert len(digests) == 4
    assert Document("other", "text", {}).digest in digests
