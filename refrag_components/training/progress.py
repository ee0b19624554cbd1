"""How far a stage is, by its steps and by the clock."""

from __future__ import annotations

from time import monotonic

import torch
from torch import distributed

__all__ = ["Progress"]

_TOGETHER = 10  # steps between two looks at one clock; each makes all processes wait for their GPUs


class Progress:
    """Counts a stage's seconds as well as its steps; whichever runs out first ends the stage.

    With a limit on the seconds, learning rates follow the clock, so that they reach zero when the
    time is over. Without one everything depends on the step alone, and a run can be repeated.

    Args:
        steps: Steps of the stage, at most.
        seconds: Seconds of the stage, at most; None for no limit. Time that a killed run spent
            after its last state does not count.
    """

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps = steps
        self.seconds = seconds
        self.elapsed = 0.0
        self._looked: float | None = None
        self._ticks = 0

    def tick(self) -> None:
        """Reads the clock once per step; processes that train together take the first one's time.

        The clock starts with the first reading.
        """
        if self.seconds is None:
            return
        together = distributed.is_available() and distributed.is_initialized()
        self._ticks += 1
        if together and self._ticks % _TOGETHER != 1:
            return
        now = monotonic()
        self.elapsed += 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if together:
            # With different times their learning rates, and with these their weights, would part.
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            shared = torch.tensor(self.elapsed, dtype=torch.float64, device=device)
            distributed.broadcast(shared, src=0)
            self.elapsed = float(shared)

    def at(self, step: int) -> float:
        """The step that the schedule is at: ``step``, or a later one where time runs short."""
        if self.seconds is None:
            return step
        return max(float(step), min(self.elapsed / self.seconds, 1.0) * self.steps)

    def left(self, step: int) -> float:
        """Share of the schedule that is left after this many steps, 1 to 0."""
        return 1.0 - min(self.at(step) / self.steps, 1.0)

    def is_over(self, step: int) -> bool:
        """Whether nothing is left to do after this many steps."""
        return self.at(step) >= self.steps
