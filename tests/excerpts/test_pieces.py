"""Pieces hold whole words, and an excerpt is made of the passage's own characters."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.excerpts.pieces import (
    GAP,
    LINE_GAP,
    ROW_GAP,
    UNITS,
    Excerpt,
    Piece,
    Unit,
    cut,
    excerpt,
    in_words,
)

TEXT = "The harbour was dug in 1907. It holds ten ships.\n\n# Weather\nRain fell for 3 days"
TABLE = """Fares by day.

| day | fare |
|---|---|
| Monday | 3 |
| Tuesday | 4 |
| Wednesday | 5 |
Children ride free."""
# Tables in them are likelier than by characters alone.
TEXTS = st.lists(
    st.one_of(
        st.text(st.sampled_from("ab1 .\n#|-\u3002"), max_size=20),
        st.sampled_from(["\n| a | b |\n|---|---|\n", "| 1 | 2 |\n"]),
    ),
    max_size=8,
).map("".join)
GAPS = f"(?:{'|'.join(map(re.escape, (GAP, ROW_GAP, LINE_GAP)))})"


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
    quoted = [text[start:end] for start, end in made.spans]
    assert re.fullmatch(GAPS.join(map(re.escape, quoted)), made.text)
    assert "".join("".join(quoted).split()) == "".join(
        "".join(text[pieces[i].start : pieces[i].end].split()) for i in sorted(read)
    )


def test_the_head_of_a_table_right_after_another_is_one_piece() -> None:
    """Also if a chunk begins in the first table and ends in the second."""
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    text = f"{table}\n{table}"
    for size in range(1, len(text)):
        bounds = chunks(text, size)
        pieces = cut(text, bounds, np.arange(len(bounds)), "words", [])
        covered = "".join(text[piece.start : piece.end] for piece in pieces)
        assert "".join(covered.split()) == "".join(text.split())


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
    assert [TEXT[p.start : p.end] for p in pieces if p.protected] == [
        "The harbour was dug in 1907."
    ]


@pytest.mark.parametrize("unit", UNITS)
def test_neighbours_are_joined_as_they_stand(unit: Unit) -> None:
    pieces = cut(TEXT, chunks(TEXT, 8), np.zeros(20), unit, [])
    assert excerpt(TEXT, pieces, range(len(pieces)), 1.0).text == TEXT
    ends = excerpt(TEXT, pieces, {0, len(pieces) - 1}, 1.0)
    assert len(ends.spans) == 2
    assert GAP in ends.text


@pytest.mark.parametrize("unit", UNITS)
def test_a_tables_head_is_a_piece_that_its_rows_name(unit: Unit) -> None:
    pieces = cut(TABLE, chunks(TABLE, 4), np.zeros(99), unit, [re.compile("Tuesday")])
    texts = [TABLE[p.start : p.end] for p in pieces]
    head = texts.index("| day | fare |\n|---|---|")
    for i, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
        in_rows = pieces[head].end < piece.start < TABLE.index("Children")
        assert piece.head == (pieces[head].start if in_rows else None), (i, text)
    # What is kept of a table can be understood.
    assert pieces[head].protected
    assert any(p.protected and "Tuesday" in text for p, text in zip(pieces, texts, strict=True))


def test_a_table_without_some_rows_is_a_table() -> None:
    made = _shown(TABLE, "Fares", "day | fare", "Wednesday", "Children")
    assert made.text == TABLE.replace("| Monday | 3 |\n| Tuesday | 4 |", "| […] |")
    made = _shown(TABLE, "Fares", "Children")
    assert made.text == "Fares by day. […] Children ride free."
    made = _shown(TABLE + " One more. And the last.", "day | fare", "Monday", "the last")
    assert made.text.endswith("| Monday | 3 |\n[…]\nAnd the last.")


def _shown(text: str, *holding: str) -> Excerpt:
    """The excerpt of the sentences that hold these texts."""
    pieces = cut(text, chunks(text, 4), np.zeros(99), "sentences", [])
    read = [
        i for i, p in enumerate(pieces) if any(each in text[p.start : p.end] for each in holding)
    ]
    return excerpt(text, pieces, read, 0.0)


def test_a_sentence_can_be_read_in_words() -> None:
    scores = np.arange(20.0)
    second = cut(TEXT, chunks(TEXT, 8), scores, "sentences", [])[1]
    words = in_words(second, TEXT, chunks(TEXT, 8), scores)
    assert [TEXT[p.start : p.end] for p in words] == ["It", "holds ten", "ships."]
    assert words[-1].score == second.score == max(p.score for p in words)
    assert all(isinstance(p, Piece) and not p.protected for p in words)
