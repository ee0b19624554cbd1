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
    tokenised separately. Safe to use from several threads.

    Args:
        tokenizer: The decoder's fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = content_tokenizer(tokenizer)
        self._tokenizer.encode_special_tokens = False  # those of the template must come through
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        self._special.update(tokenizer.all_special_ids)
        self._unknown = tokenizer.unk_token_id
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
        cuts = [
            (start + end) // 2
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token in self._special and self._is_forged(token, text, content, start, end)
        ]
        if not cuts:
            return list(encoding.ids)
        ids: list[int] = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            ids += self._encode(text[start:end], content[start:end])
        return ids

    def _is_forged(self, token: int, text: str, content: np.ndarray, start: int, end: int) -> bool:
        if end - start < 2 or not content[start:end].any():
            return False
        # A word outside the vocabulary also gets a special id, but is not forged.
        return token != self._unknown or self._unknown_text in text[start:end]
