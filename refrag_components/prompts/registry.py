"""Passages that were retrieved in this process, found again in a prompt by their exact text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refrag_components.stores.base import ChunkStore

__all__ = ["PassageRegistry", "default_registry"]

_PREFIX = 32  # characters; a shorter passage is not worth compressing and would match by accident


class PassageRegistry:
    """A bounded, thread-safe set of passages with fast search inside a prompt.

    A retriever registers what it returns, and the model that later reads the prompt finds the
    passages again although only text travelled between the two. Finding is by exact text, so it
    cannot yield a passage that the prompt does not hold.

    Surrounding whitespace is not part of a passage: templates may strip it. Passages shorter than
    32 characters are ignored.

    Args:
        max_passages: How many passages are remembered; the least recently registered are forgotten
            first.
    """

    def __init__(self, max_passages: int = 10_000) -> None:
        if max_passages < 1:
            msg = f"max_passages must be at least 1, got {max_passages}"
            raise ValueError(msg)
        self.max_passages = max_passages
        self._stores: OrderedDict[str, ChunkStore | None] = OrderedDict()
        self._by_prefix: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of passages remembered."""
        return len(self._stores)

    def register(self, text: str, store: ChunkStore | None = None) -> None:
        """Remembers a passage.

        Args:
            text: The passage.
            store: Where its chunk vectors are kept, if anywhere; replaces an earlier store.
        """
        passage = text.strip()
        if len(passage) < _PREFIX:
            return
        with self._lock:
            self._stores[passage] = store
            self._stores.move_to_end(passage)
            self._by_prefix.setdefault(passage[:_PREFIX], set()).add(passage)
            if len(self._stores) > self.max_passages:
                self._forget_oldest()

    def store_of(self, text: str) -> ChunkStore | None:
        """The store that was registered with a passage; None for an unknown passage."""
        with self._lock:
            return self._stores.get(text.strip())

    def find(self, text: str) -> list[tuple[int, int]]:
        """Finds registered passages in a text: leftmost first, the longest at each position.

        Returns:
            First and one past the last character of each, in text order, never overlapping.
        """
        matches: list[tuple[int, int]] = []
        position, last = 0, len(text) - _PREFIX
        with self._lock:
            while position <= last:
                candidates = self._by_prefix.get(text[position : position + _PREFIX], ())
                found = [passage for passage in candidates if text.startswith(passage, position)]
                if found:
                    end = position + max(map(len, found))
                    matches.append((position, end))
                    position = end
                else:
                    position += 1
        return matches

    def _forget_oldest(self) -> None:
        passage, _ = self._stores.popitem(last=False)
        same_prefix = self._by_prefix[passage[:_PREFIX]]
        same_prefix.discard(passage)
        if not same_prefix:
            del self._by_prefix[passage[:_PREFIX]]


_default = PassageRegistry()


def default_registry() -> PassageRegistry:
    """The registry that retrievers and models of one process share."""
    return _default
