"""Pieces hold whole words, and an excerpt is made of the passage's own characters."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.excerpts.pieces import GAP, UNITS, Unit, cut, excerpt

TEXT = "The harbour was dug in 1907. It holds ten ships.\n\n# Weather\nRain fell for 3 days"
TEXTS = st.text(st.sampled_from("ab1 .\n#|-\u3002"), max_size=80)


def chunks(text: str, size: int) -> np.ndarray:
    """Bounds of chunks of so many characters."""
    starts = np.arange(0, max(len(text), 1), size)
    return np.stack([starts, np.minimum(starts + size, len(text))], axis=1)


@given(TEXTS, st.integers(1, 9), st.sampled_from(UNITS), st.data())
def test_pieces_cover_all_words_once_and_excerpts_quote(
    text: str, size: int, unit: Unit, data: st.DataObject
) -> None:
    bounds = chunks(text, size)
    pieces = cut(text, bounds, np.arange(len(bounds)), unit, [])
    covered = "".join(text[p.start : p.end] for p in pieces)
    assert "".join(covered.split()) == "".join(text.split())
    ends = [0, *(end for p in pieces for end in (p.start, p.end))]
    assert ends == sorted(ends)
    for piece in pieces:
        assert text[piece.start : piece.end] == text[piece.start : piece.end].strip()
        if unit == "words":
            assert not text[piece.start - 1 : piece.start].strip()
            assert not text[piece.end : piece.end + 1].strip()
    read = data.draw(st.sets(st.sampled_from(range(len(pieces))))) if pieces else set()
    made = excerpt(text, pieces, read, 0.0)
    assert made.text == GAP.join(text[start:end] for start, end in made.spans)
    shown = "".join(made.text.replace(GAP, "").split())
    assert shown == "".join(
        "".join(text[pieces[i].start : pieces[i].end].split()) for i in sorted(read)
    )


def test_a_piece_has_the_score_of_its_best_chunk() -> None:
    scores = np.zeros(len(chunks(TEXT, 8)))
    scores[TEXT.index("ten") // 8] = 2
    pieces = cut(TEXT, chunks(TEXT, 8), scores, "sentences", [])
    texts = {TEXT[p.start : p.end]: p.score for p in pieces}
    assert texts["It holds ten ships."] == 2
    assert texts["The harbour was dug in 1907."] == 0
    assert texts["Rain fell for 3 days"] == 0


def test_what_is_protected_is_kept() -> None:
    pieces = cut(TEXT, chunks(TEXT, 8), np.zeros(20), "sentences", [re.compile(r"\d{4}")])
    assert [TEXT[p.start : p.end] for p in pieces if p.kept] == ["The harbour was dug in 1907."]


@pytest.mark.parametrize("unit", UNITS)
def test_neighbours_are_joined_as_they_stand(unit: Unit) -> None:
    pieces = cut(TEXT, chunks(TEXT, 8), np.zeros(20), unit, [])
    assert excerpt(TEXT, pieces, range(len(pieces)), 1.0).text == TEXT
    ends = excerpt(TEXT, pieces, {0, len(pieces) - 1}, 1.0)
    assert len(ends.spans) == 2
    assert GAP in ends.text
