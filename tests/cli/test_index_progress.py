from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from refrag_components.cli.index_progress import IndexProgress
from refrag_components.index import AddReport


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal)


def written(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text)


def test_without_a_terminal_a_line_a_minute(clock: Clock) -> None:
    place = console(terminal=False)
    with IndexProgress(place, 1200, clock=clock) as progress:
        for second in range(0, 200, 10):
            clock.now = second
            progress.show(AddReport(added=second, passages=10 * second, expected=6000))
    lines = written(place).splitlines()
    assert len(lines) == 3
    assert lines[0] == "600 of about 6,000 passages, 60 of 1,200 files, 0:09:00 left"
    left = [60 * int(m) + int(s) for m, s in re.findall(r"0:(\d\d):(\d\d) left", "\n".join(lines))]
    assert left == sorted(left, reverse=True)
    assert left[0] == 540  # 10 passages per second, 5,400 of them left


def test_while_files_are_only_read_there_is_no_time_left_to_tell(clock: Clock) -> None:
    place = console(terminal=False)
    with IndexProgress(place, 40, clock=clock) as progress:
        clock.now = 61
        progress.show(AddReport(unchanged=12))
    assert written(place) == "12 of 40 files\n"


def test_folders_are_told_of_together(clock: Clock) -> None:
    place = console(terminal=False)
    with IndexProgress(place, 9, clock=clock) as progress:
        progress.before = AddReport(added=5, passages=30, expected=30)
        clock.now = 90
        progress.show(AddReport(added=1, passages=10, expected=30))
    assert written(place) == "40 of about 60 passages, 6 of 9 files, 0:00:45 left\n"


def test_what_is_known_is_not_called_a_guess(clock: Clock) -> None:
    place = console(terminal=False)
    with IndexProgress(place, 2, clock=clock) as progress:
        clock.now = 61
        progress.show(AddReport(added=2, passages=5, expected=5))
    assert written(place).startswith("5 of 5 passages, 2 of 2 files")


def test_a_terminal_has_a_bar_that_goes_away(clock: Clock) -> None:
    place = console(terminal=True)
    with IndexProgress(place, 12, clock=clock) as progress:
        clock.now = 9
        progress.show(AddReport(added=3, passages=40, expected=160))
        progress._bar.refresh()
    shown = written(place)
    assert "Encoding" in shown and "40 of about 160 passages, 3 of 12 files, 0:00:" in shown
    assert shown.endswith("\r")
