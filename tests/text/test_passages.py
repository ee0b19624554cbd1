"""Passages say by themselves where they belong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refrag_components.text.passages import document_passages
from tests.text.test_splitting import count_bpe, count_words

ROWS = "\n".join(f"| Town {i} | {i}. Of them |" for i in range(12))
TEXT = f"""# Ports of Eastport

A list of ports.

## History

The harbour was dug in 1907, see Fig. 3 of the plan. It lies north of the old town.
The mole is long. Ships come often and leave again
soon after. Nobody stays.

## Traffic

| Port | Ships |
| --- | --- |
{ROWS}

That is all."""


def test_title_and_nearest_heading_go_with_each_passage() -> None:
    passages = document_passages(TEXT, count_words, 32, title="Ports of Eastport - Home")
    assert passages[0].startswith("# Ports of Eastport\n\nA list")
    later = [p for p in passages[1:] if "##" not in p]
    assert later
    for passage in later:
        assert passage.startswith(
            ("Ports of Eastport - Home > History\n\n", "Ports of Eastport - Home > Traffic\n\n")
        )


def test_the_head_of_a_table_goes_with_each_piece_and_rows_stay_whole() -> None:
    pieces = [p for p in document_passages(TEXT, count_words, 48, title="Ports") if "| Town" in p]
    assert len(pieces) > 2
    for piece in pieces:
        assert piece.count("| Port | Ships |\n| --- | --- |\n| Town") == 1
        assert all(line.endswith("|") for line in piece.split("\n") if line.startswith("|"))
    rows = [line for p in pieces for line in p.split("\n") if line.startswith("| Town")]
    assert rows == ROWS.split("\n")


def test_passages_begin_with_sentences_and_headings_stay_with_their_text() -> None:
    history = TEXT[TEXT.index("## History") : TEXT.index("## Traffic")]
    passages = document_passages(history * 3, count_words, 16)
    for passage in passages:
        body = passage.removeprefix("History\n\n")
        assert body[0].isupper() or body.startswith("#")
        assert not body.endswith(("3", "again", "History"))


def test_context_that_takes_too_much_is_left_out() -> None:
    text = "# " + "long " * 20 + "\n\n" + "Words and more words. " * 20
    assert all("long long" not in p or "#" in p for p in document_passages(text, count_words, 24))


def test_a_text_without_headings_is_only_split() -> None:
    assert document_passages("One two.\n\nThree four.", count_words, 2) == [
        "One two.",
        "Three four.",
    ]
    assert document_passages("", count_words, 2, title="T") == []


def test_the_first_heading_of_a_document_is_its_title() -> None:
    sections = "".join(f"\n\n## Part {i}\n\n{'Words of the text. ' * 20}" for i in range(2))
    passages = document_passages(f"# Tides{sections}", count_words, 24)
    later = [p for p in passages if "#" not in p]
    assert {p.split("\n")[0] for p in later} == {"Tides > Part 0", "Tides > Part 1"}
    other = document_passages(f"Tides{sections}\n\n# Ports", count_words, 24, title="Sea")
    assert {p.split("\n")[0] for p in other if "#" not in p} >= {"Sea > Part 0", "Sea > Part 1"}


def test_parts_of_equal_rank_are_no_title() -> None:
    parts = "\n\n".join(f"# Part {i}\n\n{'Words of the text. ' * 20}" for i in range(2))
    later = [p for p in document_passages(parts, count_words, 24) if "#" not in p]
    assert {p.split("\n")[0] for p in later} == {"Part 0", "Part 1"}


def test_comments_in_code_are_no_headings() -> None:
    text = "# Adds numbers.\n" + "\n\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(9))
    passages = document_passages(text, count_words, 16, title="sums.py", code=True)
    assert len(passages) > 2
    assert all(p.startswith("sums.py\n\n") and p.count("Adds") <= 1 for p in passages)
    assert sum("Adds" in p for p in passages) == 1


def test_headings_in_blocks_of_code_are_none() -> None:
    text = "```\n# a comment\nx = 1\n```\n\n" + "Words of the text. " * 20
    assert not any(p.startswith("a comment") for p in document_passages(text, count_words, 16))


@given(
    st.lists(
        st.sampled_from(["# A\n", "## B c\n", "| a | b |\n", "|-|-|\n", "\n", "Xy z. ", "```\n"])
    ),
    st.sampled_from(["", "T", "A title"]),
    st.integers(1, 40),
)
def test_nothing_is_lost_and_the_limit_kept(parts: list[str], title: str, limit: int) -> None:
    text = "".join(parts)
    for count in (count_words, count_bpe):
        passages = document_passages(text, count, limit, title=title)
        for word in ("Xy", "z."):  # a small limit may part them
            assert sum(p.count(word) for p in passages) >= text.count(word) or limit < 8
        assert all(tokens <= max(limit, 4) for tokens in count(passages))
