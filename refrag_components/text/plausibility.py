"""Whether the text of a page is what the page shows."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["looks_broken"]

_FEW = 40  # characters that say nothing either way
_MANY = 200
_BAD = {"Cc", "Cn", "Co", "Cs"}
_LETTERS = re.compile(r"[A-Za-z]")
_VOWELS = re.compile(r"[AEIOUaeiou]")
_FILLING = str.maketrans("", "", " \t\r\n.-_\u2026\u00b7|")


def looks_broken(text: str) -> bool:
    """Whether a page's text is glyph numbers, signs or words run together instead of words.

    Fonts in a PDF need not say which characters their glyphs are; what comes out then looks like
    text to a program. Short texts are believed.
    """
    solid = text.translate(_FILLING)
    if len(solid) < _FEW:
        return False
    bad = sum(unicodedata.category(c) in _BAD or c == "\ufffd" for c in solid)
    if bad > len(solid) // 20:
        return True
    if len(solid) < _MANY:
        return False
    if sum(map(str.isalnum, solid)) < len(solid) * 0.4:
        return True
    plain = unicodedata.normalize("NFD", solid)  # letters apart from their accents
    letters = len(_LETTERS.findall(plain))
    if letters < len(plain) // 2:  # another script, or numbers
        return False
    # No language has words of twenty letters on the average, or fewer vowels than every fifth one.
    return len(text.split()) < len(solid) / 20 or len(_VOWELS.findall(plain)) < letters * 0.2
