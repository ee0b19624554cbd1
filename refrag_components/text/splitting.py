"""Documents to passages: the units that are retrieved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from refrag_components.text.tokenization import content_tokenizer, encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CountTokens", "sentence_spans", "split_passages", "token_counter"]

CountTokens = Callable[[list[str]], Sequence[int]]
"""Tokens in each of several texts; called with many texts at once."""

_LINE_END = r"(?<!\n)(?<![^\W\d_][-\u2010])(?=\n)"  # not inside a word
_RULE = r"[ \t]*\|[ \t:|-]+(?:\n|\Z)"  # the line of a table between its head and its rows
# Where a text may be cut, from the best position to the worst: the empty matches. Other matches
# are what must not be cut there. A cut falls before white space, so that a word is counted with the
# space that most tokenizers make part of its first token.
_CUTS = (
    re.compile(  # after a paragraph, but not after a heading
        r"^#{1,6}[^\S\n][^\n]*(?:\n[^\S\n]*)+|(?=\n[^\S\n]*\n)(?<!\n)", re.MULTILINE
    ),
    re.compile(  # after a sentence, an item or a row, but not in a row or after a table's head
        rf"^(?:{_RULE}|[^\S\n]*\|[^\n]*)"
        r"|(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u201d\u2019)\]]))(?=\s{1,9}[^\s\da-z])"
        r"|(?<=[\u3002\uff01\uff1f])"
        rf"|{_LINE_END}(?!\n{_RULE})(?=\n[^\S\n]*(?:\||[-*+]\s|\d+[.)]\s|```|#))",
        re.MULTILINE,
    ),
    re.compile(_LINE_END),  # after a line
    re.compile(rf"(?<=\S)(?=[^\S\n])|{_LINE_END}"),  # after a word
)
# A text with more characters than this per allowed token cannot fit: it is cut without counting.
_CHARACTERS_PER_TOKEN = 32
_TEXTS_PER_BATCH = 1024


def token_counter(tokenizer: PreTrainedTokenizerBase) -> CountTokens:
    """Returns a function that counts tokens as ``Chunker`` makes them, for ``split_passages``.

    Args:
        tokenizer: The decoder's fast tokenizer.
    """
    plain = content_tokenizer(tokenizer)

    def count(texts: list[str]) -> list[int]:
        whole = list(map(encodable, texts))
        batches = (whole[i : i + _TEXTS_PER_BATCH] for i in range(0, len(whole), _TEXTS_PER_BATCH))
        return [
            len(encoding)
            for batch in batches
            for encoding in plain.encode_batch_fast(batch, add_special_tokens=False)
        ]

    return count


def split_passages(text: str, count_tokens: CountTokens, max_tokens: int = 256) -> list[str]:
    """Splits a document into passages that hold as many whole paragraphs as fit.

    A heading stays with what follows it. A paragraph above the limit is cut after sentences, items
    of a list and rows of a table, each of these after lines, a line after words and a word
    anywhere. Nothing is lost except white space around passages.

    Args:
        text: The document.
        count_tokens: Returns the number of tokens of each text in a list.
        max_tokens: Most tokens of a passage, at least 1. Only a single character that takes
            more tokens than that exceeds it.

    Returns:
        The passages in order, none of them empty.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")

    def count(texts: list[str]) -> list[int]:
        short = [t for t in texts if len(t) <= _CHARACTERS_PER_TOKEN * max_tokens]
        counted = iter(count_tokens(short) if short else ())
        return [
            next(counted) if len(t) <= _CHARACTERS_PER_TOKEN * max_tokens else max_tokens + 1
            for t in texts
        ]

    groups = list(_packed(_fitting([text], 0, count, max_tokens), max_tokens))
    return list(_checked(groups, count, max_tokens))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, item of a list or row of a table, without white space around.

    Headings and lines that end without a full stop are sentences of their own.
    """
    places = {0, len(text)}
    for cuts in _CUTS[:-1]:  # down to lines
        places.update(m.start() for m in cuts.finditer(text) if not m[0])
    spans = []
    for start, end in pairwise(sorted(places)):
        inner = text[start:end]
        left = start + len(inner) - len(inner.lstrip())
        right = left + len(inner.strip())
        if left < right:
            spans.append((left, right))
    return spans


def _fitting(
    spans: list[str], cut: int, count: Callable[[list[str]], list[int]], limit: int
) -> Iterator[tuple[str, int]]:
    """Cuts spans until each fits; yields them with their counts, losing nothing."""
    for span, tokens in zip(spans, count(spans), strict=True):
        if tokens <= limit or len(span) <= 1:
            yield span, tokens
        elif cut < len(_CUTS):
            yield from _fitting(_parts(span, _CUTS[cut]), cut + 1, count, limit)
        else:
            yield from _fitting(_halves(span), cut, count, limit)


def _parts(text: str, cuts: re.Pattern[str]) -> list[str]:
    places = [0, *(m.start() for m in cuts.finditer(text) if not m[0]), len(text)]
    return [text[start:end] for start, end in pairwise(places) if start < end]


def _packed(spans: Iterator[tuple[str, int]], limit: int) -> Iterator[list[str]]:
    """Groups neighbours whose counts add up to at most the limit."""
    group: list[str] = []
    total = 0
    for span, tokens in spans:
        if group and total + tokens > limit:
            yield group
            group, total = [], 0
        group.append(span)
        total += tokens
    yield group


def _checked(
    groups: list[list[str]], count: Callable[[list[str]], list[int]], limit: int
) -> Iterator[str]:
    """Joins each group; splits those that take more tokens together than apart."""
    texts = ["".join(group).strip() for group in groups]
    for group, text, tokens in zip(groups, texts, count(texts), strict=True):
        if tokens <= limit or len(text) <= 1:
            yield from filter(None, [text])
        elif len(group) > 1:
            middle = len(group) // 2
            yield from _checked([group[:middle], group[middle:]], count, limit)
        else:
            yield from _checked([[half] for half in _halves(text)], count, limit)


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]]
