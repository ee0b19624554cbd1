"""Text to token ids, where content yields no control token whatever it spells out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from refrag_components.cached import cached_property
from refrag_components.text.tokenization import content_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GuardedTokenizer", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text.

    Attributes:
        ids: Token ids.
        offsets: Start and end character of each token in the text; empty if nobody asked.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class _Place(Enum):
    """Where a stretch of text stands: it decides whether a tokenizer puts a space before it."""

    START = auto()
    AFTER_CONTROL = auto()
    INSIDE = auto()


@dataclass(frozen=True)
class _Cut:
    """A place at which a text is cut; the character between ``end`` and ``begin`` stands alone."""

    end: int
    begin: int
    place: _Place


class GuardedTokenizer:
    """Tokenises text in which only some characters may be part of control tokens.

    The text is tokenised as a whole, as the tokenizer itself would do it. Only where content
    yields a control token (because it spells one out, and the tokenizer looks for them or has it in
    its vocabulary, as Unigram and WordLevel do) is it cut inside that token, and both sides are
    tokenised by themselves. A control token of one character is read as an unknown one there. A
    control token that takes white space along (``lstrip``, ``rstrip``: Phi-3's) takes none of the
    content's. Safe to use from several threads.

    Args:
        tokenizer: A fast tokenizer.
        finds_control: Whether control tokens are looked for in the text, as a template needs it.

    Attributes:
        plain: A copy of the tokenizer that reads control tokens as ordinary characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, finds_control: bool) -> None:
        self.plain = content_tokenizer(tokenizer)
        whole = content_tokenizer(tokenizer) if finds_control else self.plain
        whole.encode_special_tokens = not finds_control
        self._by_place = {_Place.START: whole}
        added = self.plain.get_added_tokens_decoder()
        self._strips_before = {i for i, token in added.items() if token.lstrip}
        self._strips_after = {i for i, token in added.items() if token.rstrip}
        self._special = {i for i, token in added.items() if token.special}
        self._special.update(tokenizer.all_special_ids)
        self._unknown = tokenizer.unk_token_id
        turns = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._control = self._special - ({self._unknown} - turns)
        self._unknown_text = str(tokenizer.unk_token)

    def encode(self, text: str, content: np.ndarray) -> Tokens:
        """Tokenises a text.

        Args:
            text: The text, without lone surrogates.
            content: True for characters that must not be part of a control token, shape
                (len(text),), bool.
        """
        return self._encode(text, content, _Place.START)

    def encode_content(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        """Tokenises texts that are content from end to end, many at once.

        Args:
            texts: Texts without lone surrogates.
            offsets: Whether anybody asks for them: a third of the time is theirs.
        """
        whole = self._by_place[_Place.START]
        encode = whole.encode_batch if offsets else whole.encode_batch_fast
        found = []
        for text, encoding in zip(
            texts, encode(list(texts), add_special_tokens=False), strict=True
        ):
            ids = encoding.ids
            if self._special.isdisjoint(ids):
                found.append(Tokens(ids, encoding.offsets if offsets else []))
            else:
                found.append(self.encode(text, np.ones(len(text), dtype=bool)))
        return found

    def _encode(self, text: str, content: np.ndarray, place: _Place) -> Tokens:
        encoding = self._tokenizer(place).encode(text, add_special_tokens=False)
        cuts = self._cuts(encoding, text, content, place)
        if not cuts:
            return Tokens(encoding.ids, encoding.offsets)
        found = Tokens([], [])
        begin = 0
        for cut in (*cuts, _Cut(len(text), len(text), place)):
            if begin < cut.end:
                part = self._encode(text[begin : cut.end], content[begin : cut.end], place)
                found.ids.extend(part.ids)
                found.offsets.extend((begin + start, begin + end) for start, end in part.offsets)
            if cut.end < cut.begin:
                ids = self._encode_character(text[cut.end])
                found.ids.extend(ids)
                found.offsets.extend([(cut.end, cut.begin)] * len(ids))
            begin, place = cut.begin, cut.place
        return found

    def _cuts(
        self, encoding: Encoding, text: str, content: np.ndarray, place: _Place
    ) -> list[_Cut]:
        cuts: list[_Cut] = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token not in self._special or start == end:
                continue
            own_start, own_end = self._own_span(token, text, start, end)
            if content[own_start:own_end].any():
                if self._is_forged(token, text[own_start:own_end]):
                    middle = (own_start + own_end) // 2
                    begin = own_end if own_end - own_start == 1 else middle
                    cuts.append(_Cut(middle, begin, _Place.INSIDE))
                    place = _Place.INSIDE
                continue
            if token not in self._control:
                continue
            before = np.flatnonzero(content[start:own_start])
            cut = start + int(before[-1]) + 1 if len(before) else start
            if cut and (len(before) or place is _Place.INSIDE):
                cuts.append(_Cut(cut, cut, _Place.AFTER_CONTROL))
                place = _Place.AFTER_CONTROL
            after = np.flatnonzero(content[own_end:end])
            if len(after):
                cut = own_end + int(after[0])
                cuts.append(_Cut(cut, cut, _Place.AFTER_CONTROL))
                place = _Place.AFTER_CONTROL
        return cuts

    def _own_span(self, token: int, text: str, start: int, end: int) -> tuple[int, int]:
        """Where a token's own characters are, without the white space that it takes with it."""
        span = text[start:end]
        if token in self._strips_before and span.strip():
            start = end - len(span.lstrip())
        if token in self._strips_after and span.strip():
            end = start + len(text[start:end].rstrip())
        return start, end

    def _is_forged(self, token: int, text: str) -> bool:
        # A word outside the vocabulary also gets a special id, but is not forged.
        return token != self._unknown or self._unknown_text in text

    def _encode_character(self, character: str) -> list[int]:
        """A character that is a control token by itself, as an ordinary one or as an unknown."""
        for text in (character, "\ufffd"):
            ids = self._bare.encode(text, add_special_tokens=False).ids
            if not self._control.intersection(ids):
                return list(ids)
        return []

    def _tokenizer(self, place: _Place) -> Tokenizer:
        if place not in self._by_place:  # hardly ever needed, and a copy of the vocabulary
            self._by_place[place] = _made_for(place, self._by_place[_Place.START])
        return self._by_place[place]

    @cached_property
    def _bare(self) -> Tokenizer:
        return _made_for(_Place.INSIDE, self.plain)


def _made_for(place: _Place, whole: Tokenizer) -> Tokenizer:
    """A tokenizer without the space that it puts before a text, or before each stretch."""
    made = json.loads(whole.to_str())
    steps: list[Any] = [made["normalizer"], made["pre_tokenizer"]]
    changed = False
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        for inner in step.values():
            steps += inner if isinstance(inner, list) else [inner]
        always = place is _Place.INSIDE
        kind, scheme = step.get("type"), step.get("prepend_scheme")
        if kind == "Metaspace" and (scheme == "first" or (always and scheme == "always")):
            step["prepend_scheme"] = "never"
        elif kind == "Prepend" and always:
            step["prepend"] = ""
        elif kind == "ByteLevel" and always and step["add_prefix_space"]:
            step["add_prefix_space"] = False
        else:
            continue
        changed = True
    if not changed:
        return whole
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.encode_special_tokens = whole.encode_special_tokens
    return tokenizer
