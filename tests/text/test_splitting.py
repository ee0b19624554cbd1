from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refrag_components.text.splitting import split_passages
from refrag_components.text.tokenization import content_tokenizer
from tests.tiny import tiny_decoder_tokenizer


def count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def count_characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def count_bytes(texts: list[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


def count_more_together(texts: list[str]) -> list[int]:
    """A tokenizer for which the whole takes more tokens than its parts."""
    return [len(text) ** 2 for text in texts]


def count_less_after_space(texts: list[str]) -> list[int]:
    """A tokenizer for which a text without its leading space takes more tokens."""
    return [len(text) if text[:1].isspace() else 2 * len(text) for text in texts]


TOKENIZER = content_tokenizer(tiny_decoder_tokenizer())


def count_bpe(texts: list[str]) -> list[int]:
    return [len(e) for e in TOKENIZER.encode_batch(texts, add_special_tokens=False)]


COUNTERS = [
    count_words,
    count_characters,
    count_bytes,
    count_more_together,
    count_less_after_space,
    count_bpe,
]
TEXTS = st.text(st.sampled_from("ab.?! \n\t\r\u00a0\u2028\U0001f642。”)")) | st.text(
    st.characters(exclude_categories=["Cs"])
)


@given(TEXTS, st.sampled_from(COUNTERS), st.integers(4, 40))
@example("a\n\nb" * 100, count_words, 4)
@example("a" * 1000, count_more_together, 4)
@example(" abcdefgh" * 9, count_less_after_space, 9)
@example(" " * 1000 + "a" + "\n" * 1000 + "b", count_characters, 7)
def test_loses_only_white_space_and_keeps_the_limit(text: str, count, limit: int) -> None:
    passages = split_passages(text, count, limit)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(tokens <= limit for tokens in count(passages))
    assert all(passage == passage.strip() and passage for passage in passages)


@given(TEXTS, st.integers(4, 40))
def test_passages_are_slices_of_the_document(text: str, limit: int) -> None:
    position = 0
    for passage in split_passages(text, count_words, limit):
        found = text.find(passage, position)
        assert found >= 0
        assert not text[position:found].strip()
        position = found + len(passage)


def test_packs_whole_paragraphs() -> None:
    text = "One two three.\n\nFour five.\n \nSix seven eight nine.\n\n\nTen."
    assert split_passages(text, count_words, 5) == [
        "One two three.\n\nFour five.",
        "Six seven eight nine.\n\n\nTen.",
    ]


def test_a_text_within_the_limit_is_one_passage() -> None:
    assert split_passages("  One.\n\nTwo.\n", count_words, 5) == ["One.\n\nTwo."]


def test_cuts_a_long_paragraph_after_sentences_and_lines() -> None:
    text = 'One two. Three "four five!" Six seven?\nEight nine'
    assert split_passages(text, count_words, 3) == [
        "One two.",
        'Three "four five!"',
        "Six seven?",
        "Eight nine",
    ]


def test_cuts_a_long_sentence_after_words() -> None:
    assert split_passages("one two three four five", count_words, 2) == [
        "one two",
        "three four",
        "five",
    ]


def test_no_cut_falls_inside_a_hyphenated_word() -> None:
    text = "harbours were dug by an ef-\nficient firm of Anglo\u2010\nSaxon well-known build-\ners"
    for limit in range(2, 9):
        passages = split_passages(text, count_words, limit)
        assert len(passages) > 1
        assert not any(passage.endswith(("-", "\u2010")) for passage in passages)
        assert any("well-known" in passage for passage in passages)


def test_the_head_of_a_table_is_not_left_without_rows() -> None:
    table = "| a | b |\n| --- | --- |\n| c | d |\n| e | f |"
    passages = split_passages(f"One two three four five.\n\n{table}", count_words, 18)
    assert passages == ["One two three four five.", table[: table.index("\n| e")], "| e | f |"]


def test_cuts_a_long_word_anywhere() -> None:
    passages = split_passages("x" * 100, count_characters, 30)
    assert "".join(passages) == "x" * 100
    assert len(passages) == 4


@pytest.mark.parametrize("text", ["", " \n\t\n "])
def test_no_text_no_passages(text: str) -> None:
    assert split_passages(text, count_characters, 1) == []


def test_a_single_character_may_exceed_the_limit() -> None:
    assert split_passages("a\U0001f642b", count_bytes, 2) == ["a", "\U0001f642", "b"]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        split_passages("text", count_words, 0)


def test_counts_in_few_calls() -> None:
    calls: list[int] = []

    def count(texts: list[str]) -> list[int]:
        calls.append(len(texts))
        return count_words(texts)

    text = "\n\n".join(f"Paragraph {i} has a few words." for i in range(5000))
    assert len(split_passages(text, count, 256)) > 100
    assert len(calls) <= 3


def test_a_megabyte_without_a_place_to_cut_takes_seconds_at_most() -> None:
    """A tokenizer's time grows with the square of a text without a place to cut."""
    counted: list[int] = []

    def count(texts: list[str]) -> list[int]:
        counted.extend(map(len, texts))
        return count_bpe(texts)

    assert "".join(split_passages("x" * 1_000_000, count, 256)) == "x" * 1_000_000
    assert sum(counted) <= 10 * 1_000_000
    assert max(counted) <= 10_000
