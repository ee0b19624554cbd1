"""Text in any encoding is read right, with a warning where it had to be guessed, or not at all."""

from __future__ import annotations

import pytest

from refrag_components.exceptions import DocumentError
from refrag_components.text.encodings import decode, decode_declared
from refrag_components.text.extraction import extract
from tests.made_files import ENCODINGS, SENTENCES, declared_page


@pytest.mark.parametrize(("language", "encoding"), ENCODINGS)
@pytest.mark.parametrize("times", [1, 5])
def test_text_without_a_mark_is_read_and_the_guess_told(
    language: str, encoding: str, times: int
) -> None:
    text = "\n".join([SENTENCES[language]] * times)
    assert decode(text.encode(encoding))[0] == text
    found = extract(text.encode(encoding), ".txt")
    assert found.text == text
    assert found.warning.startswith("was read as ")
    assert "save it as UTF-8" in found.warning


@pytest.mark.parametrize(("language", "encoding"), [e for e in ENCODINGS if "utf" not in e[1]])
def test_pages_are_read_in_the_encoding_that_they_name(language: str, encoding: str) -> None:
    found = extract(declared_page(language, encoding), ".html")
    assert (found.text, found.warning) == (SENTENCES[language], "")


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<?xml version="1.0" encoding="windows-1251"?>', "windows-1251"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">', "koi8-r"),
        ("<META CHARSET=windows-1251>", "windows-1251"),
        ('<meta charset="utf-8">', "utf-8"),
    ],
)
def test_declarations_of_every_kind_are_read(declaration: str, encoding: str) -> None:
    page = f"{declaration}<p>{SENTENCES['Russian']}</p>".encode(encoding)
    assert SENTENCES["Russian"] in decode_declared(page)[0]
    assert decode_declared(page)[1] == ""


@pytest.mark.parametrize("declared", ["utf-8", "no-such-encoding", "utf-16", "rot13"])
def test_a_wrong_declaration_is_not_believed(declared: str) -> None:
    page = f'<meta charset="{declared}"><p>{SENTENCES["Russian"]}</p>'
    text, guessed = decode_declared(page.encode("windows-1251"))
    assert (text, guessed) == (page, "cp1251")
    assert decode_declared(page.encode()) == (page, "")


def test_names_stand_for_the_larger_set_as_in_browsers() -> None:
    page = '<meta charset="iso-8859-1"><p>\u201cno\u201d \u2013 5 \u20ac</p>'
    assert decode_declared(page.encode("cp1252")) == (page, "")
    page = '<meta charset="gb2312"><p>\u9555</p>'
    assert decode_declared(page.encode("gb18030")) == (page, "")


def test_quotes_and_dashes_of_windows_are_read() -> None:
    text = "He said \u201cno\u201d \u2013 and the harbour\u2019s mole cost \u20ac5."
    assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(1, 32)) * 9,
        bytes(range(128, 256)) * 3,
        b"caf\xe9 \x81\x8d",
        b"\0" * 50,
        b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0\xb8",
    ],
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match=r"binary|unknown encoding"):
        decode(data)
