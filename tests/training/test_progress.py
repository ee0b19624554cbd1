"""A stage goes by its steps, or by the clock where time runs short."""

from __future__ import annotations

import pytest

from refrag_components.training import progress as module
from refrag_components.training.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be changed by a test."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_without_a_limit_only_steps_count(clock: list[float]) -> None:
    progress = Progress(10, None)
    for step in range(10):
        progress.tick()
        clock[0] += 1000
        assert progress.at(step) == step
        assert not progress.is_over(step)
    assert progress.is_over(10)
    assert progress.elapsed == 0  # so that a state does not depend on the machine


def test_what_runs_out_first_ends_the_stage(clock: list[float]) -> None:
    progress = Progress(1000, 20.0)
    progress.tick()
    assert progress.at(0) == 0
    clock[0] += 5
    progress.tick()
    assert progress.at(10) == 250
    assert progress.at(400) == 400
    assert progress.left(10) == 0.75
    assert progress.left(400) == 0.6
    assert progress.is_over(1000)
    clock[0] += 16
    progress.tick()
    assert progress.at(11) == 1000
    assert progress.is_over(11)


def test_time_goes_on_where_a_killed_run_stopped(clock: list[float]) -> None:
    first = Progress(100, 10.0)
    first.tick()
    clock[0] += 4
    first.tick()
    clock[0] += 5000  # until somebody starts it again
    second = Progress(100, 10.0)
    second.elapsed = first.elapsed
    second.tick()
    assert second.at(0) == pytest.approx(40)
    clock[0] += 3
    second.tick()
    assert second.at(0) == pytest.approx(70)
