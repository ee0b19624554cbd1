"""Bytes to characters: by a mark, by what the document declares, or by a guess that is told."""

from __future__ import annotations

import codecs
import re

from bs4.dammit import EncodingDetector
from charset_normalizer import from_bytes

from refrag_components.exceptions import DocumentError

__all__ = ["decode", "decode_declared"]

_MARKS = (  # longest first: UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What browsers read for these names: the larger set, which writers use without saying so.
_LARGER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "tis-620": "cp874",
}
# Encodings that files are found in. Those that differ in hardly a letter stand in the order in
# which they are preferred.
_GUESSES = [
    *("cp1252", "iso8859_2", "cp1250", "cp1254", "cp1257"),
    *("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "cp1253", "cp1255", "cp1256", "cp1258"),
    *("cp874", "big5", "gb18030", "euc_jp", "cp932", "cp949"),
]
_LATIN = 5  # so many of them, the first
_MULTIBYTE = ("big5", "gb18030", "euc_jp", "cp932", "cp949")
_WIDE = ("utf-32-be", "utf-32-le", "utf-16-be", "utf-16-le")
_SHIFTING = ("iso2022_jp", "iso2022_jp_2", "iso2022_kr", "hz")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
# A sign between letters, which no language has: the encoding is another one.
_SIGN_IN_WORD = re.compile(
    r"(?<=\w)[^\w\s\x00-\x7f\u00ad\u2010-\u201f\u2026](?=\w)|[\u00b2\u00b3\u00b9](?=[a-z])"
)
_LOOKED_AT = 64 * 2**10  # characters
_BINARY = "is binary; if it is text, save it as UTF-8"
_UNKNOWN = "is in an unknown encoding; save it as UTF-8"


def decode(data: bytes) -> tuple[str, str]:
    """The characters of a text file.

    Args:
        data: Its bytes.

    Returns:
        The text, and the encoding if that was guessed, or else "".

    Raises:
        DocumentError: If it is not text, or in an encoding that cannot be told.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(name), ""
            except UnicodeDecodeError as error:
                raise DocumentError(_UNKNOWN) from error
    if b"\0" in data:
        return _wide(data)
    if b"\x1b$" in data or b"~{" in data:
        for name in _SHIFTING:
            text = _strictly(data, name)
            if text is not None and "\x1b" not in text and not text.isascii():
                return text, name
    text = _strictly(data, "utf-8")
    if text is not None:
        if _broken(text):
            raise DocumentError(_BINARY)
        return text, ""
    return _guessed(data)


def decode_declared(data: bytes) -> tuple[str, str]:
    """The characters of an HTML or XML file, as ``decode`` returns them.

    What the file says of its encoding is believed if its bytes agree.
    """
    declared = EncodingDetector.find_declared_encoding(
        data, is_html=True, search_entire_document=False
    )
    marked = any(data.startswith(mark) for mark, _ in _MARKS)
    if declared is None or marked or b"\0" in data:
        return decode(data)
    try:
        name = codecs.lookup(declared).name
    except LookupError:
        return decode(data)
    if name.startswith(("utf-16", "utf-32")):  # where even this could be read, it is not true
        return decode(data)
    text = _strictly(data, _LARGER.get(name, name))
    return decode(data) if text is None or _broken(text) else (text, "")


def _strictly(data: bytes, name: str) -> str | None:
    try:
        return data.decode(name)
    except (LookupError, UnicodeError):
        return None


def _broken(text: str) -> bool:
    """Whether more than one character of a hundred is a control character."""
    return len(_CONTROL.findall(text)) > len(text) // 100


def _wide(data: bytes) -> tuple[str, str]:
    """UTF-16 or UTF-32 without a mark: spaces and line ends tell which."""
    if data.count(b"\0") >= len(data) // 20:
        for name in _WIDE:
            text = _strictly(data, name)
            if text is None or "\0" in text or _broken(text):
                continue
            spaces = sum(map(text.count, " \n。、"))
            if spaces and all(c.isprintable() or c.isspace() for c in text[:1000]):
                return text, name
    raise DocumentError(_BINARY)


def _guessed(data: bytes) -> tuple[str, str]:
    likely = []
    for rank, match in enumerate(from_bytes(data, cp_isolation=_GUESSES, enable_fallback=False)):
        text = str(match)
        order = min(_GUESSES.index(n) for n in match.could_be_from_charset if n in _GUESSES)
        latin = order < _LATIN
        # A few bytes prove no other alphabet, unless what they say makes words of a language.
        proven = latin or match.coherence > 0.1 or _GUESSES[order] in _MULTIBYTE
        if proven and not _CONTROL.search(text):
            signs = len(_SIGN_IN_WORD.findall(text[:_LOOKED_AT]))
            likely.append((signs, 0 if latin else rank, order, text))
    if not likely:
        raise DocumentError(_UNKNOWN)
    _, _, order, text = min(likely)
    return text, _GUESSES[order].replace("_", "-")
