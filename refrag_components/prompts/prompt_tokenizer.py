"""Prompt parts to token ids: content never turns into control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.prompts.parts import ControlPart, TextPart
from refrag_components.text.tokenization import content_tokenizer, encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptTokenizer"]


class PromptTokenizer:
    """Tokenises prompt text in which only the chat template may use control tokens.

    Template and content are tokenised together, as the tokenizer itself would do it; only where
    content spells out a control token is the text cut inside that token, and both sides are
    tokenised separately. A control token of one character is read as a plain character there. White
    space of the content beside a control token of the template may belong to that token, as some
    tokenizers want it. Safe to use from several threads.

    Args:
        tokenizer: The decoder's fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._plain = content_tokenizer(tokenizer)
        self._tokenizer = content_tokenizer(tokenizer)
        self._tokenizer.encode_special_tokens = False  # those of the template must come through
        added = self._tokenizer.get_added_tokens_decoder()
        self._strips_before = {i for i, token in added.items() if token.lstrip}
        self._strips_after = {i for i, token in added.items() if token.rstrip}
        self._special = {i for i, token in added.items() if token.special}
        self._special.update(tokenizer.all_special_ids)
        self._unknown = tokenizer.unk_token_id
        turns = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._control = self._special - ({self._unknown} - turns)
        self._unknown_text = str(tokenizer.unk_token)
        opening = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
        self._opening = opening if opening == [tokenizer.bos_token_id] else []

    @property
    def opening(self) -> list[int]:
        """Token ids that the tokenizer puts before a prompt without a template: BOS or none."""
        return list(self._opening)

    def encode(self, parts: Sequence[TextPart | ControlPart]) -> np.ndarray:
        """Tokenises neighbouring parts; no special token comes out of a ``TextPart``.

        Returns:
            Token ids, shape (n,), int64.
        """
        text = encodable("".join(part.text for part in parts))
        content = np.concatenate(
            [np.full(len(part.text), isinstance(part, TextPart)) for part in parts]
            or [np.zeros(0, dtype=bool)]
        )
        return np.asarray(self._encode(text, content), dtype=np.int64)

    def _encode(self, text: str, content: np.ndarray) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans = [
            (token, *self._own_span(token, text, start, end))
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token in self._special
        ]
        forged = [span[1:] for span in spans if self._is_forged(text, content, *span)]
        if not forged:
            return list(encoding.ids)
        ids: list[int] = []
        begin = 0
        for start, end in forged:
            cut = (start + end) // 2  # the start of a single character
            ids += self._encode(text[begin:cut], content[begin:cut])
            begin = cut
            if end - start == 1:
                ids += self._encode_character(text[start])
                begin = end
        return ids + self._encode(text[begin:], content[begin:])

    def _encode_character(self, character: str) -> list[int]:
        """A character that is a control token by itself, as an ordinary one or as an unknown."""
        for text in (character, "\ufffd"):
            ids = self._plain.encode(text, add_special_tokens=False).ids
            if not self._control.intersection(ids):
                return list(ids)
        return []

    def _own_span(self, token: int, text: str, start: int, end: int) -> tuple[int, int]:
        """Where a token's own characters are, without the white space that it takes with it."""
        own = text[start:end]
        if token in self._strips_before and own.strip():
            start = end - len(own.lstrip())
        if token in self._strips_after and own.strip():
            end = start + len(text[start:end].rstrip())
        return start, end

    def _is_forged(self, text: str, content: np.ndarray, token: int, start: int, end: int) -> bool:
        if not content[start:end].any():
            return False
        # A word outside the vocabulary also gets a special id, but is not forged.
        return token != self._unknown or self._unknown_text in text[start:end]
