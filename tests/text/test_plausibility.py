from __future__ import annotations

import pytest

from refrag_components.text.plausibility import looks_broken
from tests.made_files import SENTENCES

ENGLISH = (
    "When the tide turns, ships leave the basin and sail along the coast to the next town. " * 4
)


@pytest.mark.parametrize("text", [ENGLISH, *(sentence * 8 for sentence in SENTENCES.values())])
def test_words_of_any_language_are_believed(text: str) -> None:
    assert not looks_broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "1.1 Introduction . . . . . . . . . . . 3\n" * 20,
        "| 12 | 2,248 | 31.5 | -7 |\n" * 30,
        "def f(x):\n    return {k: v[0] for k, v in x.items() if v}\n" * 8,
        "ACGTTGCAACGATTAC " * 30,
        "x",
        "",
    ],
)
def test_contents_numbers_and_code_are_believed(text: str) -> None:
    assert not looks_broken(text)


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH.replace(" ", ""),
        "".join(c if c == " " else chr(ord(c) - 29) for c in ENGLISH.replace(",", "")[:-1]),
        "".join(chr(0xE000 + ord(c)) for c in ENGLISH),
        "\ufffd\ufffd " * 50,
        "".join(chr(1 + ord(c) % 31) for c in ENGLISH),
        "!\"#$ %&'( )*+,/ " * 30,
    ],
)
def test_glyph_numbers_signs_and_glued_words_are_not(text: str) -> None:
    assert looks_broken(text)
