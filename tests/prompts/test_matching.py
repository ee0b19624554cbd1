"""The finder finds exactly the passages that a text holds, however they were printed there."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.utils import mustache

from refrag_components.prompts.matching import PassageFinder, PlainText

LAKE = "The lake of Zug lies between the cantons of Zug, Schwyz and Lucerne."
LONGER = LAKE + " It covers thirty-eight square kilometres."
MOUNTAIN = "The Rigi rises above the southern shore of the lake and has a railway."
AWKWARD = (
    'Rainer said:\n\n  "It\'s 5 < 6 & 7 > 3",\tthen he opened C:\\new\\table and \\alpha;\r\n'
    "&amp; was printed in the caf\u00e9 \U0001f600, and that was all."
)


def found(text: str, *passages: str) -> list[str]:
    return [text[match.start : match.end] for match in PassageFinder(passages).find(text)]


def test_finds_passages_in_text_order() -> None:
    assert found(f"Context: {MOUNTAIN}\n\n{LAKE} Question?", LAKE, MOUNTAIN) == [MOUNTAIN, LAKE]


def test_finds_a_passage_twice_and_side_by_side() -> None:
    assert found(LAKE + LAKE, LAKE) == [LAKE, LAKE]


def test_longest_passage_wins() -> None:
    assert found(f"a {LONGER} b {LAKE} c", LAKE, LONGER) == [LONGER, LAKE]


def test_same_beginning_other_ending_is_not_found() -> None:
    assert found(LAKE.replace("Lucerne", "Bern"), LAKE) == []


def test_white_space_around_a_passage_does_not_matter() -> None:
    assert found(f"Context:{LAKE}", f"\n  {LAKE}\t\n") == [LAKE]


def test_short_passages_are_ignored() -> None:
    assert not PassageFinder(["x" * 31, "   ", f"a{' ' * 40}b"])
    assert found("x" * 40, "x" * 31, "   ") == []
    assert found("x" * 40, "x" * 32) == ["x" * 32]


PRINTED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "on one line": lambda text: " ".join(text.split()),
    "wrapped": lambda text: textwrap.fill(text, 20),
    "indented": lambda text: textwrap.indent(text, "    "),
    "JSON": lambda text: json.dumps({"text": text, "n": 1}),
    "JSON in JSON": lambda text: json.dumps(json.dumps([text])),
    "JSON with every character": lambda text: json.dumps([text], ensure_ascii=False),
    "Python": lambda text: str([text, 1]),
    "HTML": lambda text: f"<p>{html.escape(text)}</p>",
    "HTML in HTML": lambda text: html.escape(html.escape(text)),
    "JSON in HTML": lambda text: html.escape(json.dumps([text])),
    "mustache": lambda text: mustache.render("<p>{{text}}</p>", {"text": text}),
}


@pytest.mark.parametrize("printed", PRINTED.values(), ids=PRINTED)
@pytest.mark.parametrize("passage", [LAKE, AWKWARD])
def test_any_way_of_printing(printed: Callable[[str], str], passage: str) -> None:
    text = f"One. {printed(passage)} Two."
    (match,) = PassageFinder([MOUNTAIN, passage]).find(text)
    assert match.passage == passage
    assert printed(passage).strip().endswith(text[match.start : match.end][-9:]) or (
        text[match.end - 9 : match.end] in printed(passage)
    )
    assert text[: match.start].startswith("One. ")
    assert text[match.end :].endswith(" Two.")


def test_passages_that_print_alike_are_told_apart_where_they_can_be() -> None:
    one, two = AWKWARD, " ".join(AWKWARD.split())
    matches = PassageFinder([one, two]).find(f"{one} | {two}")
    assert [match.passage for match in matches] == [one, two]


@pytest.mark.parametrize(
    "text", ["\ud800" * 40, "\\" * 50, "&amp;" * 20, "\\u00e" * 9, "&#0;" * 40]
)
def test_odd_characters(text: str) -> None:
    assert found(f"a {text} b", f"-{text}-" + LAKE) == []
    assert found(f"a -{text}-{LAKE} b", f"-{text}-{LAKE}") == [f"-{text}-{LAKE}"]


def test_a_common_beginning_costs_nothing() -> None:
    """Ten thousand passages with the same beginning: to compare them one by one takes hours."""
    ruler = "=" * 78
    finder = PassageFinder(f"{ruler}\nChapter {i}\n{ruler}\nText {i}." for i in range(10_000))
    other = "\n".join(f"{ruler}\nChapter {i} of another manual\n" for i in range(3000))
    own = f"{ruler}\nChapter 1234\n{ruler}\nText 1234."
    assert [match.passage for match in finder.find(other + own)] == [own]


def test_holds_and_spans() -> None:
    plain = PlainText(f"a {json.dumps(AWKWARD)} b {AWKWARD}")
    assert plain.holds(f" {AWKWARD}\n")
    assert not plain.holds(LAKE)
    first, second = plain.spans_of(AWKWARD)
    assert plain.text[slice(*second)] == AWKWARD
    assert first < second
    assert list(plain.spans_of(" ")) == []


@given(
    st.lists(st.text("ab \n", min_size=30, max_size=70), max_size=6),
    st.text('ab \n\\"&;n', max_size=400),
)
def test_matches_are_of_the_passages_ordered_and_apart(passages: list[str], text: str) -> None:
    text = text + " ".join(passages)
    matches = PassageFinder(passages).find(text)
    known = {passage.strip() for passage in passages}
    for match in matches:
        assert match.passage in known
        assert PlainText(text[match.start : match.end]).form == PlainText(match.passage).form
    borders = [border for match in matches for border in match[:2]]
    assert borders == sorted(borders)
    long_enough = [p for p in passages if len(PlainText(p).form.strip()) >= 32]
    assert bool(matches) >= bool(long_enough)
