"""Whose turn it is: calls that wait are served one row each, in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from refrag_components.engines.row import Row

__all__ = ["Turns"]


class Turns:
    """Rows that wait, by call. A call with many rows does not make one with a single row wait."""

    def __init__(self) -> None:
        self._calls: deque[deque[Row]] = deque()

    def add(self, rows: Iterable[Row]) -> None:
        """Adds the rows of one call."""
        if call := deque(rows):
            self._calls.append(call)

    def take(self, count: int) -> list[Row]:
        """Takes out the next rows, at most ``count``; those that have ended are left out."""
        taken: list[Row] = []
        while self._calls and len(taken) < count:
            call = self._calls.popleft()
            row = call.popleft()
            if not row.ended:
                taken.append(row)
            if call:
                self._calls.append(call)
        return taken

    def take_all(self) -> list[Row]:
        """Takes out all rows."""
        rows = [row for call in self._calls for row in call]
        self._calls.clear()
        return rows
