"""Calls that arrive at the same time are answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from refrag_components.forking import OwnLock

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """Batches the calls that wait while an earlier batch runs.

    A framework runs a batch of prompts, and a server its requests, as single calls in many
    threads. The first call runs immediately; those that arrive meanwhile form the next batch, so no
    call waits for a timer.

    Args:
        run: Works on several items; returns one result per item, in order.
        max_size: Largest number of items to run together.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], *, max_size: int = 32
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._waiting: list[_Job[Item, Result]] = []
        self._enter = OwnLock()
        self._turn = OwnLock()

    def __call__(self, item: Item) -> Result:
        """Works on one item, possibly together with those of other threads."""
        job = _Job[Item, Result](item)
        if self._enter.inherited:  # the parent's threads wait for these
            self._waiting = []
        with self._enter:
            self._waiting.append(job)
        while not job.future.done():
            with self._turn:
                if not job.future.done():
                    self._run_next()
        return job.future.result()

    def _run_next(self) -> None:
        with self._enter:
            jobs = self._waiting[: self._max_size]
            del self._waiting[: self._max_size]
        try:
            results = self._run([job.item for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                self._run_alone(jobs)
        except BaseException as error:  # the process is told to stop; nobody may wait forever
            for job in jobs:
                job.future.set_exception(error)
            raise
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    def _run_alone(self, jobs: Sequence[_Job[Item, Result]]) -> None:
        """One bad item must not spoil the answers of the others."""
        for job in jobs:
            try:
                job.future.set_result(self._run([job.item])[0])
            except Exception as error:
                job.future.set_exception(error)
