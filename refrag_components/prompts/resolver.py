"""Text of a prompt to parts: which stretches are retrieved passages, which are ordinary text.

An envelope marks a passage inside any text, in ASCII so that templates, JSON and logs leave it
alone, and readable by any model because it contains the passage itself::

    [[refrag:KEY]]text of the passage[[/refrag]]

Nothing is looked up by a key. A key only vouches for the text next to it, so a forged one
cannot reach another passage; whatever does not resolve stays ordinary text: slower, never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from refrag_components.prompts.parts import Part, PassagePart, TextPart
from refrag_components.prompts.registry import PassageRegistry
from refrag_components.vectors import passage_key

if TYPE_CHECKING:
    from refrag_components.stores.base import ChunkStore

__all__ = ["Resolved", "Resolver", "document_text", "format_envelope"]

_MARKER = re.compile(r"\[\[refrag:(?P<key>[^\[\]\s]*)\]\]|\[\[/refrag\]\]")
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
            text except the markers of well-formed envelopes.
        warnings: About texts that claimed to be a passage and were read as ordinary text.
    """

    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()


class _Span(NamedTuple):
    """Where a passage is; ``start`` and ``end`` include the markers of an envelope."""

    start: int
    end: int
    parts: tuple[Part, ...]


class Resolver:
    """Finds passages in text.

    Whitespace around a passage is not part of it and stays ordinary text.

    Args:
        registry: Passages that were retrieved in this process.
        fingerprint: Of the model that will read the passages; part of every valid key.
        store: Store of the passages that neither bring a store nor were registered with one.
    """

    def __init__(
        self, registry: PassageRegistry, fingerprint: str, store: ChunkStore | None = None
    ) -> None:
        self._registry = registry
        self._fingerprint = fingerprint
        self._store = store

    def is_key_of(self, key: object, text: str) -> bool:
        """Whether a key was made from exactly this passage for this model."""
        passage = text.strip()
        return bool(passage) and key == passage_key(passage, self._fingerprint)

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
            documents: Passages besides the registered ones that are known to belong to the text,
                each with the store of its chunk vectors if there is one.
        """
        given = PassageRegistry(max_passages=max(len(documents or {}), 1))
        for document, store in (documents or {}).items():
            given.register(document, store)
        envelopes, warnings = self._envelopes(text)
        spans = [*envelopes, *self._matches(given, text), *self._matches(self._registry, text)]
        parts: list[Part] = []
        position = 0
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            if span.start < position:
                continue
            parts += [TextPart(text[position : span.start]), *span.parts]
            position = span.end
        parts.append(TextPart(text[position:]))
        return Resolved(tuple(part for part in parts if part.text), warnings)

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

    def _matches(self, registry: PassageRegistry, text: str) -> Iterator[_Span]:
        for start, end in registry.find(text):
            passage = text[start:end]
            yield _Span(start, end, (self._passage(passage, registry.store_of(passage)),))

    def _passage(self, text: str, store: ChunkStore | None) -> PassagePart:
        for known in (store, self._registry.store_of(text), self._store):
            if known is not None:  # an empty store is false
                return PassagePart(text, known)
        return PassagePart(text)
