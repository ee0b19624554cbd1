"""How far indexing is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

if TYPE_CHECKING:
    from refrag_components.index import AddReport

__all__ = ["IndexProgress"]

_EVERY = 60.0  # seconds between lines


class IndexProgress:
    """Shows reports of indexing; ``with`` ends the bar.

    Args:
        console: Where to.
        files: How many files there are.
        clock: Tells seconds.

    Attributes:
        before: What was done before what ``show`` is told of; None for nothing.
    """

    before: AddReport | None = None

    def __init__(
        self, console: Console, files: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._files = files
        self._clock = clock
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("Reading", total=None, told=f"{files:,} files")
        self._told = clock()
        self._began = clock()  # to encode

    def __enter__(self) -> IndexProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: AddReport) -> None:
        """Shows a report of what is being done."""
        if self.before is not None:
            report = self.before + report
        if not report.passages:
            self._began = self._clock()
        told = self._words(report)
        self._bar.update(
            self._task,
            description="Encoding" if report.passages else "Reading",
            completed=report.passages,
            total=report.expected if report.passages else None,
            told=told,
        )
        if not self._console.is_terminal and self._clock() - self._told >= _EVERY:
            self._told = self._clock()
            self._console.print(told, style="dim", highlight=False, soft_wrap=True)

    def _words(self, report: AddReport) -> str:
        done = report.added + report.updated + report.unchanged + len(report.skipped)
        files = f"{done:,} of {self._files:,} files"
        if not report.passages:
            return files
        about = "about " if done < self._files else ""
        ahead = report.expected - report.passages
        seconds = round((self._clock() - self._began) * ahead / report.passages)
        left = f", {timedelta(seconds=seconds)} left" if ahead else ""
        return f"{report.passages:,} of {about}{report.expected:,} passages, {files}{left}"
