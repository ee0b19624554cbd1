"""Tokens to text as they arrive: whole characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

__all__ = ["TextStream"]


class TextStream:
    """The text of one answer, returned as soon as it is certain.

    Args:
        tokenizer: The decoder's fast tokenizer.
        stop: Strings that end the text.
        skip_special_tokens: Leave special tokens out.

    Attributes:
        stopped: Whether a stop string was found.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._skip = skip_special_tokens
        self._decoder = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._ids: list[int] = []
        self._decoded = 0  # characters of the text that have been decoded
        self._pending = ""  # decoded, but may be the beginning of a stop string
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Adds a token and returns the text that is now certain; may set ``stopped``."""
        self._ids.append(token_id)
        text = self._decoder.step(self._tokenizer, token_id) or ""
        self._decoded += len(text)
        return self._release(text)

    def finish(self) -> str:
        """Returns the text that was held back; to be called once, after the last token."""
        if self.stopped:
            return ""
        # The decoder holds back an incomplete character and cannot be asked for it.
        whole: str = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)
        text = self._release(whole[self._decoded :])
        return text if self.stopped else text + self._pending

    def of_token(self, token_id: int) -> str:
        """The text of a token inside an answer, whether special or not."""
        # Some decoders drop white space at the beginning of a text, so the second of two counts.
        one, two = (
            self._tokenizer.decode([token_id] * n, skip_special_tokens=False) for n in (1, 2)
        )
        return two[len(one) :]

    def _release(self, text: str) -> str:
        self._pending += text
        found = [at for at in map(self._pending.find, self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._pending[: min(found)]
        held = max((_overlap(self._pending, stop) for stop in self._stop), default=0)
        certain = self._pending[: len(self._pending) - held]
        self._pending = self._pending[len(certain) :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ``text`` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
