"""Tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

__all__ = ["TextStream"]

_REPLACEMENT = "\ufffd"  # what bytes that are no whole UTF-8 character decode to


class TextStream:
    """The text of one answer, given out as early as it is certain.

    Args:
        tokenizer: The decoder's fast tokenizer.
        stop: Strings that end the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        # A token is decoded together with the ones before it, on which its spelling can depend
        # (leading space, part of a character): from the last but one border between characters.
        self._origin = 0
        self._border = 0
        self._taken = 0  # characters of the text from the origin that were taken
        self._pending = ""  # taken, but may turn out to begin a stop string
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Adds a token and returns the text that is now certain; may set ``stopped``."""
        self._ids.append(token_id)
        text = self._decoded()
        whole = text.rstrip(_REPLACEMENT)  # the end may be a character that is not complete yet
        added = whole[self._taken :]
        self._taken = max(self._taken, len(whole))
        if whole == text:
            self._origin, self._border = self._border, len(self._ids)
            self._taken = len(self._decoded())
        return self._release(added)

    def finish(self) -> str:
        """Returns the text that was held back; to be called once, after the last token."""
        if self.stopped:
            return ""
        text = self._release(self._decoded()[self._taken :])
        return text if self.stopped else text + self._pending

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids[self._origin :], skip_special_tokens=True))

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
    """Length of the longest end of ``text`` that begins ``stop`` without completing it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
