"""What an engine decodes together, and a hold on its steps."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from refrag_components.engines import TransformersEngine
from refrag_components.engines.lanes import Lanes
from refrag_components.engines.row import Row

__all__ = ["Steps"]

_PATIENCE = 300  # seconds, for a test that fails


class Steps:
    """Stands between an engine and its steps.

    Attributes:
        sizes: Rows of each step.
    """

    def __init__(self, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._changed = threading.Condition()
        self._submitted = 0
        self._awaited = 0
        self._allowed: int | None = None
        worker = engine._worker
        submit, step, start = worker.submit, Lanes.step, Lanes.start

        def watched_submit(rows: Sequence[Row]) -> None:
            submit(rows)
            with self._changed:
                self._submitted += len(rows)
                self._changed.notify_all()

        def held_start(lanes: Lanes, rows: Sequence[Row]) -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: self._submitted >= self._awaited, _PATIENCE)
            start(lanes, rows)

        def held_step(lanes: Lanes) -> None:
            if lanes.rows:
                with self._changed:
                    assert self._changed.wait_for(lambda: self._allowed != 0, _PATIENCE)
                    if self._allowed is not None:
                        self._allowed -= 1
                    self.sizes.append(len(lanes.rows))
                    self._changed.notify_all()
            step(lanes)

        monkeypatch.setattr(worker, "submit", watched_submit)
        monkeypatch.setattr(Lanes, "start", held_start)
        monkeypatch.setattr(Lanes, "step", held_step)

    def hold(self, until: int) -> None:
        """Counts from zero; nothing starts until so many rows have been submitted."""
        with self._changed:
            self.sizes.clear()
            self._submitted, self._awaited = 0, until

    def allow(self, count: int | None) -> None:
        """Allows so many more steps, None for any number."""
        with self._changed:
            self._allowed = count
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        """Returns when so many steps have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sizes) >= count, _PATIENCE)

    def wait_submitted(self, count: int) -> None:
        """Returns when so many rows have been submitted."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._submitted >= count, _PATIENCE)
