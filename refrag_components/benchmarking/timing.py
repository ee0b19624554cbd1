"""Times and memory of work on a device: warm-up, synchronisation, medians and spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Timing", "enough", "free_memory", "measure", "synchronise"]

_LONG = 3.0  # seconds after which two measurements are enough: long ones hardly vary


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing.

    Attributes:
        median: Seconds.
        low: The fastest, in seconds.
        high: The slowest, in seconds.
        repeats: How many.
    """

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarises at least one measurement."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def synchronise(device: torch.device) -> None:
    """Waits until a device has done all that it was given; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Gives back what nobody uses any longer, and counts the peak of the memory from here on.

    Transformers' caches and modules refer to each other, so what they hold of an earlier
    measurement waits for the garbage collector.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def enough(seconds: list[float], repeats: int) -> bool:
    """Whether so many measurements have been made, or two that took long."""
    return len(seconds) >= repeats or (len(seconds) > 1 and sum(seconds) > _LONG)


def measure(
    work: Callable[[], object],
    device: torch.device,
    *,
    repeats: int,
    warm_up: int = 1,
    before: Callable[[], object] | None = None,
) -> Timing:
    """Times some work, from a device that waits to a device that has done it.

    Args:
        work: What is timed.
        device: Where it runs.
        repeats: How often it is timed, at least once; less often if it takes seconds.
        warm_up: How often it runs before that.
        before: Runs before each time, not timed.

    Raises:
        ValueError: If nothing would be timed.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds: list[float] = []
    turn = 0
    while not enough(seconds, repeats):
        if before is not None:
            before()
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        if turn >= warm_up:
            seconds.append(time.perf_counter() - started)
        turn += 1
    return Timing.of(seconds)
