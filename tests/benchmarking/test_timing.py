from __future__ import annotations

import pytest
import torch

from refrag_components.benchmarking.timing import Timing, enough, measure

CPU = torch.device("cpu")


def test_a_timing_is_the_median_with_the_extremes() -> None:
    assert Timing.of([3.0, 1.0, 10.0]) == Timing(median=3.0, low=1.0, high=10.0, repeats=3)


def test_warming_up_is_not_counted_and_what_comes_before_runs_each_time() -> None:
    calls: list[str] = []
    timing = measure(
        lambda: calls.append("work"),
        CPU,
        repeats=3,
        warm_up=2,
        before=lambda: calls.append("before"),
    )
    assert timing.repeats == 3
    assert calls == ["before", "work"] * 5


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure(lambda: None, CPU, repeats=0)


def test_two_long_measurements_are_enough() -> None:
    assert enough([0.1] * 5, 5)
    assert not enough([0.1] * 4, 5)
    assert enough([2.0, 2.0], 5)
    assert not enough([40.0], 5)
    assert enough([40.0], 1)
