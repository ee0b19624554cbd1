r"""Passages found in a text, also where a formatter has changed white space or escaped characters.

Text and passages are compared in a form in which runs of white space are one space and the escapes
of JSON, Python, HTML and mustache are undone, so ``"a\\n  b &quot;c&quot;"`` is ``a b "c"``. The
search is linear in the text and in all passages together, whatever they have in common.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from refrag_components.text.tokenization import encodable

__all__ = ["Match", "PassageFinder", "PlainText"]

_SHORTEST = 32  # characters; a shorter passage is not worth compressing and would match by accident

# Each of these is one character of the plain form. Backslashes may be doubled, & be escaped again.
_ESCAPED = re.compile(
    r"""
    (?P<space>(?:\s|\\+[nrt]){2,} | [^\S\ ] | \\+[nrt])
    | \\+u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\+u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
    | \\+u(?P<hex>[0-9a-fA-F]{4})
    | \\+(?P<quoted>["'/])
    | (?:\\+(?=&(?:amp;)*(?:quot|apos|\#39|\#x27);))?
      &(?:amp;)*(?P<entity>(?:amp|lt|gt|quot|apos|\#\d{1,6}|\#[xX][0-9a-fA-F]{1,5});)
    | (?P<backslash>\\{2,})
    """,
    re.VERBOSE,
)


class Match(NamedTuple):
    """Where a passage stands in a text.

    Attributes:
        start: Its first character.
        end: One past its last character.
        passage: The passage as it was retrieved.
    """

    start: int
    end: int
    passage: str


class PlainText:
    """A text in the form in which it is compared, with the way back.

    Attributes:
        text: The text itself.
        form: What is compared.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        text = encodable(text)
        pieces: list[str] = []
        self._places: list[int] = []  # in the form, of characters that are longer in the text
        self._excess: list[int] = [0]  # characters that the text has more, up to each of them
        position = length = 0
        for escaped in _ESCAPED.finditer(text):
            character = _character(escaped)
            pieces += [text[position : escaped.start()], character]
            length += escaped.start() - position + 1
            position = escaped.end()
            self._places.append(length - 1)
            self._excess.append(position - length)
        self.form = "".join([*pieces, text[position:]])

    def border(self, place: int) -> int:
        """The place in the text before which a place in the form lies."""
        return place + self._excess[bisect_left(self._places, place)]

    def holds(self, passage: str) -> bool:
        """Whether a passage stands anywhere in it."""
        return PlainText(passage.strip()).form.strip() in self.form

    def spans_of(self, passage: str) -> Iterator[tuple[int, int]]:
        """First and one past the last character of each occurrence of a passage."""
        wanted = PlainText(passage.strip()).form.strip()
        place = self.form.find(wanted) if wanted else -1
        while place >= 0:
            yield self.border(place), self.border(place + len(wanted))
            place = self.form.find(wanted, place + 1)


class PassageFinder:
    """Finds passages in any number of texts.

    White space around a passage is not part of it. Passages shorter than 32 characters are
    ignored.

    Args:
        passages: What is to be found.
    """

    def __init__(self, passages: Iterable[str]) -> None:
        self._passages: dict[str, list[str]] = {}
        for passage in dict.fromkeys(passage.strip() for passage in passages):
            form = PlainText(passage).form.strip()
            if len(form) >= _SHORTEST:
                self._passages.setdefault(form, []).append(passage)
        self._forms = list(self._passages)
        self._automaton = AhoCorasick(
            self._forms,
            matchkind=MatchKind.LeftmostLongest,
            implementation=Implementation.ContiguousNFA,
        )

    def __bool__(self) -> bool:
        """Whether there is anything that can be found."""
        return bool(self._forms)

    @property
    def forms(self) -> list[str]:
        """What is looked for in the form of texts."""
        return list(self._forms)

    def find(self, text: str) -> list[Match]:
        """Finds passages: leftmost first, the longest at each place, never overlapping."""
        if not self:
            return []
        plain = PlainText(text)
        matches = []
        for index, first, last in self._automaton.find_matches_as_indexes(plain.form):
            start, end = plain.border(first), plain.border(last)
            alike, stands = self._passages[self._forms[index]], text[start:end]
            matches.append(Match(start, end, stands if stands in alike else alike[-1]))
        return matches


def _character(escaped: re.Match[str]) -> str:
    if escaped["space"]:
        return " "
    if escaped["high"]:
        pair = bytes.fromhex(escaped["high"] + escaped["low"])
        return pair.decode("utf-16-be")
    if escaped["hex"]:
        return encodable(chr(int(escaped["hex"], 16)))
    if escaped["entity"]:
        return html.unescape(f"&{escaped['entity']}")[:1] or " "
    return escaped["quoted"] or "\\"
