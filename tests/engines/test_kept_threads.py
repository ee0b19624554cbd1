"""Work gets a thread that has worked before, if one waits."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from refrag_components.engines.kept_threads import KeptThreads

_PATIENCE = 60  # seconds, for a test that fails


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


class Ran:
    """Work that says which thread has done it."""

    def __init__(self, threads: KeptThreads) -> None:
        self._threads = threads
        self._done = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self._done.set()

    def wait(self) -> threading.Thread:
        assert self._done.wait(_PATIENCE)
        assert self.thread is not None
        return self.thread


def ran(threads: KeptThreads) -> threading.Thread:
    """Has something done and returns the thread, which waits again."""
    work = Ran(threads)
    waiting = len(threads._waiting)
    threads.run(work)
    thread = work.wait()
    until(lambda: len(threads._waiting) >= max(waiting, 1))
    return thread


def test_a_thread_that_waits_gets_the_next_work() -> None:
    threads = KeptThreads("kept")
    first = ran(threads)
    assert (first.name, first.daemon) == ("kept", True)
    assert [ran(threads) for _ in range(3)] == [first] * 3


def test_work_is_done_once_nothing_refers_to_it() -> None:
    """A model that is given up while Python ends aborts the process."""
    threads = KeptThreads("kept")
    assert threads.wait(0)
    go = threading.Event()

    class Waits:
        def __call__(self) -> None:
            go.wait(_PATIENCE)

    work = Waits()
    gone = weakref.ref(work)
    threads.run(work)
    del work
    assert not threads.wait(0.01)
    go.set()
    assert threads.wait(_PATIENCE)
    assert gone() is None


def test_work_does_not_wait_for_other_work() -> None:
    threads = KeptThreads("kept")
    go = threading.Event()
    threads.run(lambda: go.wait(_PATIENCE) and None)
    second = ran(threads)
    go.set()
    until(lambda: len(threads._waiting) == 2)
    assert second.is_alive()


def test_a_thread_ends_when_nothing_comes() -> None:
    threads = KeptThreads("kept", patience=0.01)
    work = Ran(threads)
    threads.run(work)
    work.wait().join(_PATIENCE)
    assert not work.wait().is_alive()
    assert not threads._waiting
    again = Ran(threads)
    threads.run(again)
    assert again.wait() is not work.wait()


def test_who_waits_keeps_nothing_alive() -> None:
    threads = KeptThreads("kept")
    work = Ran(threads)
    threads.run(work)
    work.wait()
    until(lambda: threads._waiting)
    gone = weakref.ref(work)
    del work
    until(lambda: gone() is None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_fails_takes_only_its_thread_along() -> None:
    threads = KeptThreads("kept")
    first = ran(threads)

    def fail() -> None:
        raise ValueError

    threads.run(fail)
    first.join(_PATIENCE)
    assert not first.is_alive()
    assert ran(threads).is_alive()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    threads = KeptThreads("kept")
    ran(threads)
    child = os.fork()
    if not child:
        work = Ran(threads)
        threads.run(work)
        os._exit(0 if work._done.wait(_PATIENCE) else 1)
    assert os.waitpid(child, 0)[1] == 0
