"""Concurrent calls become batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from refrag_components.generation.batching import Batcher


class Doubler:
    """Doubles numbers; waits in the first batch until told to go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        assert self.go_on.wait(60)
        if 13 in items:
            msg = "thirteen"
            raise ValueError(msg)
        return [2 * item for item in items]


def gather(doubler: Doubler, batcher: Batcher[int, int], items: Sequence[int]) -> list[object]:
    """Calls with 0 and, while that runs, with each item in its own thread."""

    def call(item: int) -> object:
        try:
            return batcher(item)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(len(items) + 1) as pool:
        first = pool.submit(call, 0)
        assert doubler.started.wait(60)
        others = [pool.submit(call, item) for item in items]
        while len(batcher._waiting) < len(items):
            time.sleep(0.001)
        doubler.go_on.set()
        assert first.result(60) == 0
        return [future.result(60) for future in others]


def test_calls_that_wait_run_together() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler)
    assert gather(doubler, batcher, [1, 2, 3]) == [2, 4, 6]
    assert doubler.batches[0] == [0]
    assert sorted(doubler.batches[1]) == [1, 2, 3]


def test_batches_are_bounded() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, max_size=2)
    assert gather(doubler, batcher, [1, 2, 3]) == [2, 4, 6]
    assert [len(batch) for batch in doubler.batches] == [1, 2, 1]


def test_one_bad_item_does_not_spoil_the_others() -> None:
    doubler = Doubler()
    results = gather(doubler, Batcher(doubler), [1, 13, 3])
    assert [results[0], results[2]] == [2, 6]
    assert isinstance(results[1], ValueError)


def test_a_single_call_needs_no_company() -> None:
    batcher = Batcher[int, int](lambda items: [item + 1 for item in items])
    assert batcher(1) == 2
    assert batcher(2) == 3


def test_an_interrupt_ends_the_call_and_leaves_the_batcher_usable() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if items[0] < 0:
            raise KeyboardInterrupt
        return list(items)

    batcher = Batcher(run)
    with pytest.raises(KeyboardInterrupt):
        batcher(-1)
    assert batcher(1) == 1
