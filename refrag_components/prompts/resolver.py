"""Text of a prompt to parts: which stretches are retrieved passages, which are ordinary text.

An envelope marks a passage inside any text, in ASCII so that templates, JSON and logs leave it
alone, and readable by any model because it contains the passage itself::

    [[refrag:KEY]]text of the passage[[/refrag]]

Nothing is looked up by a key. A key only vouches for the text next to it, so a forged one
cannot reach another passage; whatever does not resolve stays ordinary text: slower, never wrong.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from refrag_components.prompts.matching import Match, PassageFinder, PlainText
from refrag_components.prompts.parts import Part, PassagePart, TextPart
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.vectors import passage_key

if TYPE_CHECKING:
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["Resolved", "Resolver", "document_text", "format_envelope"]

logger = logging.getLogger(__name__)

_MARKER = re.compile(r"\[\[refrag:(?P<key>[^\[\]\s]*)\]\]|\[\[/refrag\]\]")
_NOT_ASKED_FOR = (
    "a prompt holds passages that were retrieved in this thread or task, but not the query, and "
    "nothing ties both together; they are read as tokens. Retrieve and answer in one chain, or "
    "pass the passages with the call as documents="
)
_DOCUMENT_TEXT = ("page_content", "text", "content")


def format_envelope(text: str, key: str) -> str:
    """Marks a passage so that the resolver finds it again.

    A text that itself contains markers could not be told from its envelope; it is returned as is.

    Args:
        text: The passage.
        key: Its key: ``passage_key`` of the text without surrounding whitespace, under the
            fingerprint of the model that will read it.
    """
    return text if _MARKER.search(text) else f"[[refrag:{key}]]{text}[[/refrag]]"


def document_text(document: object) -> str:
    """The text of a document given as a string or as the dict that serialisation made of it.

    Raises:
        TypeError: If there is no text in it.
    """
    if isinstance(document, str):
        return document
    if isinstance(document, Mapping):
        for name in _DOCUMENT_TEXT:
            if isinstance(text := document.get(name), str):
                return text
    msg = (
        f"a document must be a string or a dict with one of {', '.join(_DOCUMENT_TEXT)}, "
        f"got {type(document).__name__}"
    )
    raise TypeError(msg)


@dataclass(frozen=True)
class Resolved:
    """A text taken apart.

    Attributes:
        parts: Ordinary text and passages in text order; together they hold every character of the
            text except the markers of well-formed envelopes. Where a formatter has changed a
            passage's white space or escaped its characters, the passage stands as it was retrieved.
        warnings: About texts that claimed to be a passage and were read as ordinary text.
    """

    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()


class _Span(NamedTuple):
    """Where a passage is; ``start`` and ``end`` include the markers of an envelope."""

    start: int
    end: int
    parts: tuple[Part, ...]
    passage: str | None = None  # what was recognised by its text alone


class Resolver:
    """Finds passages in the texts of one request.

    White space around a passage is not part of it and stays ordinary text.

    Args:
        fingerprint: Of the model that will read the passages; part of every valid key.
        retrieved: What the request itself has retrieved. Its passages are recognised, and their
            chunk vectors are in the store of their retriever, if it has one.
        by_hand: What was retrieved in this thread or task, for a request that has retrieved
            nothing that is known to be its own. It counts only in a prompt that also asks what was
            searched for, and there ``store`` comes before that of the retriever.
        store: The answering model's store, of the passages for which nobody names another.
    """

    def __init__(
        self,
        fingerprint: str,
        retrieved: Sequence[Retrieval] = (),
        *,
        by_hand: Sequence[Retrieval] = (),
        store: ChunkStore | None = None,
    ) -> None:
        self._fingerprint = fingerprint
        self._retrieved = tuple(retrieved)
        self._by_hand = () if retrieved else tuple(by_hand)
        self._store = store
        self._finders: dict[tuple[str, ...], PassageFinder] = {}

    @property
    def retrieved(self) -> tuple[Retrieval, ...]:
        """What the request itself has retrieved."""
        return self._retrieved

    def for_prompt(self, prompt: str) -> Resolver:
        """A resolver of the texts of one prompt.

        Args:
            prompt: All these texts; what was retrieved by hand counts if they hold its query. A
                prompt that seems to lack it is logged, not reported: it may be another user's.
        """
        asked_for = _asked_for(self._by_hand, PlainText(prompt)) if self._by_hand else ()
        if (
            self._by_hand
            and not asked_for
            and PassageFinder(self._by_hand[-1].passages).find(prompt)
        ):
            logger.warning(_NOT_ASKED_FOR)
        return Resolver(self._fingerprint, self._retrieved, by_hand=asked_for, store=self._store)

    def key_of(self, text: str) -> str:
        """The key of a passage for this model."""
        return passage_key(text.strip(), self._fingerprint)

    def is_key_of(self, key: object, text: str) -> bool:
        """Whether a key was made from exactly this passage for this model."""
        return bool(text.strip()) and key == self.key_of(text)

    def passage_parts(self, text: str, store: ChunkStore | None = None) -> tuple[Part, ...]:
        """The parts of a text that is one whole passage.

        Args:
            text: The passage, with or without whitespace around it.
            store: Where its chunk vectors are kept, if it brings a store.
        """
        passage = text.strip()
        before, _, after = text.partition(passage) if passage else (text, "", "")
        parts = (TextPart(before), self._passage(passage, store), TextPart(after))
        return tuple(part for part in parts if part.text)

    def resolve_text(
        self, text: str, documents: Mapping[str, ChunkStore | None] | None = None
    ) -> Resolved:
        """Takes a text apart.

        Where two passages overlap, the one that starts first is taken, then the longer one: a
        retrieved passage that contains an envelope is still that one passage.

        Args:
            text: Text of one message or prompt.
            documents: Passages besides the retrieved ones that are known to belong to the text,
                each with the store of its chunk vectors if there is one.
        """
        envelopes, warnings = self._envelopes(text)
        return Resolved(_cut(text, [*envelopes, *self._matches(text, documents or {})]), warnings)

    def resolve_asking(
        self, text: str, documents: Mapping[str, ChunkStore | None], elsewhere: set[str]
    ) -> Resolved:
        """Takes a text of the message that asks apart, which may hold context and a question.

        What was searched for is never a passage here, nor is a passage that stands elsewhere in
        the prompt: it may be quoted, or be what the question says word for word.

        Args:
            text: As for ``resolve_text``.
            documents: As for ``resolve_text``.
            elsewhere: Passages that stand elsewhere; those of this text are added.
        """
        envelopes, warnings = self._envelopes(text)
        context: list[_Span] = []
        if matches := list(self._matches(text, documents)):
            plain = PlainText(text)
            quoting = [query for query in self._queries if self.passages_in(query, documents)]
            asked = [place for query in quoting for place in plain.spans_of(query)]
            for span in sorted(matches, key=_order):
                quoted = any(start <= span.start and span.end <= end for start, end in asked)
                if span.passage is not None and span.passage not in elsewhere and not quoted:
                    elsewhere.add(span.passage)
                    context.append(span)
        return Resolved(_cut(text, [*envelopes, *context]), warnings)

    def passages_in(self, text: str, documents: Mapping[str, ChunkStore | None]) -> set[str]:
        """The passages that a text holds, as they were retrieved."""
        return {span.passage for span in self._matches(text, documents) if span.passage}

    def resolve_envelopes(self, text: str) -> Resolved:
        """Takes a text apart in which only envelopes are passages."""
        envelopes, warnings = self._envelopes(text)
        return Resolved(_cut(text, envelopes), warnings)

    def query_in(self, text: str) -> str | None:
        """The longest query of the request that a text contains as whole words, if any."""
        held = (query for query in self._queries if query in text and _has_words(text, query))
        return max(held, key=len, default=None)

    def find_retrieved(self, text: str) -> list[Match]:
        """Where what was retrieved stands in a text."""
        retrievals = (*self._retrieved, *self._by_hand)
        return self._find(text, (passage for each in retrievals for passage in each.passages))

    @property
    def _queries(self) -> set[str]:
        return {each.query for each in (*self._retrieved, *self._by_hand) if each.query}

    def _envelopes(self, text: str) -> tuple[list[_Span], tuple[str, ...]]:
        """Well-formed envelopes: two neighbouring markers around a passage with its own key."""
        markers = list(_MARKER.finditer(text))
        envelopes: list[_Span] = []
        for opening, closing in pairwise(markers):
            body = text[opening.end() : closing.start()]
            if closing["key"] is None and self.is_key_of(opening["key"], body):
                parts = self.passage_parts(body)
                envelopes.append(_Span(opening.start(), closing.end(), parts))
        stray = len(markers) - 2 * len(envelopes)
        if not stray:
            return envelopes, ()
        warning = (
            f"{stray} [[refrag]] markers do not enclose a passage with its own key for this model; "
            "they were read as ordinary text"
        )
        return envelopes, (warning,)

    def _matches(self, text: str, documents: Mapping[str, ChunkStore | None]) -> Iterator[_Span]:
        stores = {document.strip(): store for document, store in documents.items()}
        for match in self._find(text, stores):
            yield self._span(match, stores[match.passage])
        for match in self.find_retrieved(text):
            yield self._span(match, None)

    def _find(self, text: str, passages: Iterable[str]) -> list[Match]:
        wanted = tuple(passages)
        if wanted not in self._finders:  # the texts of a prompt mostly have the same passages
            self._finders[wanted] = PassageFinder(wanted)
        return self._finders[wanted].find(text)

    def _span(self, match: Match, store: ChunkStore | None) -> _Span:
        part = self._passage(match.passage, store)
        return _Span(match.start, match.end, (part,), match.passage)

    def _passage(self, text: str, store: ChunkStore | None) -> PassagePart:
        key = self.key_of(text)
        retrieved = _store_of(text, key, self._retrieved)
        by_hand = _store_of(text, key, self._by_hand)
        for known in (store, retrieved, self._store, by_hand):
            if known is not None:  # an empty store is false
                return PassagePart(text, known)
        return PassagePart(text)


def _order(span: _Span) -> tuple[int, int]:
    return span.start, -span.end


def _cut(text: str, spans: Sequence[_Span]) -> tuple[Part, ...]:
    parts: list[Part] = []
    position = 0
    for span in sorted(spans, key=_order):
        if span.start < position:
            continue
        parts += [TextPart(text[position : span.start]), *span.parts]
        position = span.end
    parts.append(TextPart(text[position:]))
    return tuple(part for part in parts if part.text)


def _store_of(text: str, key: str, retrievals: Sequence[Retrieval]) -> ChunkStore | None:
    """The store that came with a passage, or its retriever's: of the last that has one."""
    stores = (retrieval.store_of(text, key) for retrieval in reversed(retrievals))
    return next((store for store in stores if store is not None), None)


def _asked_for(retrievals: Sequence[Retrieval], prompt: PlainText) -> tuple[Retrieval, ...]:
    """The searches whose query stands in a prompt, not only as words of a longer passage."""
    possible = [each for each in retrievals if each.query and prompt.holds(each.query)]
    passages = [passage for each in possible for passage in each.passages]
    matches = PassageFinder(passages).find(prompt.text)

    def stands(query: str) -> bool:
        for start, end in prompt.spans_of(query):
            if not any(
                match.start <= start and end <= match.end and end - start < match.end - match.start
                for match in matches
            ):
                return True
        return False

    return tuple(each for each in possible if stands(each.query))


def _has_words(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
