"""Prompt parts to token ids: content never turns into control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.prompts.parts import ControlPart, TextPart
from refrag_components.text.guarded import GuardedTokenizer
from refrag_components.text.tokenization import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptTokenizer"]

# What separates passages is short, and the same between all of them.
_SHORT = 64  # characters
_REMEMBERED = 256


class PromptTokenizer:
    """Tokenises prompt text in which only the chat template may use control tokens.

    Template and content are tokenised together, as the tokenizer itself would do it, except where
    content would become part of a control token: see ``GuardedTokenizer``. Safe to use from several
    threads.

    Args:
        tokenizer: The decoder's fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._guarded = GuardedTokenizer(tokenizer, finds_control=True)
        opening = self._guarded.plain.encode("", add_special_tokens=True).ids[:1]
        self._opening = opening if opening == [tokenizer.bos_token_id] else []
        self._short = lru_cache(_REMEMBERED)(self._encode)

    @property
    def opening(self) -> list[int]:
        """Token ids that the tokenizer puts before a prompt without a template: BOS or none."""
        return list(self._opening)

    def encode(self, parts: Sequence[TextPart | ControlPart]) -> np.ndarray:
        """Tokenises neighbouring parts; no special token comes out of a ``TextPart``.

        Returns:
            Token ids, shape (n,), int64, read only.
        """
        if len(parts) == 1 and len(parts[0].text) <= _SHORT:
            return self._short(parts[0])
        return self._encode(*parts)

    def _encode(self, *parts: TextPart | ControlPart) -> np.ndarray:
        text = encodable("".join(part.text for part in parts))
        content = np.concatenate(
            [np.full(len(part.text), isinstance(part, TextPart)) for part in parts]
            or [np.zeros(0, dtype=bool)]
        )
        ids = np.asarray(self._guarded.encode(text, content).ids, dtype=np.int64)
        ids.flags.writeable = False
        return ids
