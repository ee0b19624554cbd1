from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from refrag_components.text import documents
from refrag_components.text.documents import (
    Document,
    Skipped,
    load_document,
    load_documents,
)
from tests import made_files


def load(path: Path, content: bytes | str) -> Document | Skipped:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_document(path)


def reason(result: Document | Skipped) -> str:
    assert isinstance(result, Skipped)
    return result.reason


def text(result: Document | Skipped) -> str:
    assert isinstance(result, Document)
    return result.text


# -- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [
        *(".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".tex", ".adoc", ".TXT", ".log"),
        *(".py", ".json", ".toml", ".c", ".sh"),
    ],
)
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
    assert reason(load(tmp_path / "a.exe", "x")) == "is of a type that is not read (.exe)"
    assert reason(load(tmp_path / "picture", "x")) == "is of a type that is not read (no suffix)"


@pytest.mark.parametrize("name", ["README", "LICENSE", "Makefile"])
def test_texts_that_have_no_suffix_are_known_by_name(tmp_path: Path, name: str) -> None:
    assert text(load(tmp_path / name, "Some words.")) == "Some words."


@pytest.mark.parametrize(
    ("name", "code"), [("tide.py", True), ("Makefile", True), ("a.md", False), ("README", False)]
)
def test_code_is_told_apart_and_has_its_name_as_title(
    tmp_path: Path, name: str, code: bool
) -> None:
    document = load(tmp_path / name, made_files.CODE)
    assert isinstance(document, Document)
    assert (document.code, document.title) == (code, name if code else "")


def test_skips_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 2 * 2**20)
    assert text(load(tmp_path / "a.txt", "x" * 2 * 2**20))
    assert reason(load(tmp_path / "a.txt", "x" * 3 * 2**20)) == "has 3 MB, more than 2 MB; split it"


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
    assert reason(result) == "has a name that is not UTF-8; rename it"
    result.path.encode()


def advised() -> list[str]:
    """The reasons in the table of docs/documents.md."""
    page = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")
    table = page.partition("### Why a file is skipped")[2].partition("Read, but with a warning")[0]
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]


def test_the_docs_say_what_to_do_about_each_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    made = {
        "a.exe": b"MZ",
        "picture": b"x",
        "a.txt": b"\xff\xfea\0b",
        "b.txt": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "c.txt": b"",
        "d.txt": b"x" * (2**20 + 1),
        "a.pdf": b"%PDF-1.7 damaged",
        "b.pdf": made_files.encrypted(made_files.pdf("Closed"), "user", "secret"),
        "c.pdf": made_files.pdf(""),
        "a.ipynb": b"{}",
        "a.epub": b"PK",
        "a.docx": b"PK",
    }
    docs.mkdir()
    for name, content in made.items():
        (docs / name).write_bytes(content)
    (docs / "link.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "outside.txt").touch()
    (docs / "pipe.txt").symlink_to("nowhere")
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 2**20)
    reasons = [reason(result) for result in load_documents(docs)]
    assert len(reasons) == len(made) + 2
    patterns = [re.escape(row).replace(r"\.\.\.", ".+").replace("50", ".+") for row in advised()]
    for why in reasons:
        assert any(re.match(pattern, why) for pattern in patterns), why
    # And no row is about what cannot happen any more.
    sources = "".join(
        p.read_text(encoding="utf-8") for p in Path(documents.__file__).parent.glob("*.py")
    )
    for row in advised():
        for part in row.replace("50 MB", "...").split("..."):
            assert part.strip() in sources, row


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
