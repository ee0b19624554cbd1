"""How far a stage is, by its steps and by the clock."""

from __future__ import annotations

from time import monotonic

import torch
from torch import distributed

__all__ = ["Progress"]


class Progress:
    """Counts a stage's seconds beside its steps; whichever runs out first ends the stage.

    With a limit on the seconds, learning rates follow the clock, so that they reach zero when the
    time is over. Without one everything depends on the step alone, and a run can be repeated.

    Args:
        steps: Steps of the stage, at most.
        seconds: Seconds of the stage, at most; None for no limit. Time that a killed run spent
            after its last checkpoint does not count.
    """

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps = steps
        self.seconds = seconds
        self.elapsed = 0.0
        self._looked: float | None = None

    def tick(self) -> None:
        """Reads the clock; the processes that train together all take the first one's time."""
        if self.seconds is None:
            return
        now = monotonic()
        self.elapsed += 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if distributed.is_available() and distributed.is_initialized():
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

    def is_over(self, step: int) -> bool:
        """Whether nothing is left to do after this many steps."""
        return self.at(step) >= self.steps
