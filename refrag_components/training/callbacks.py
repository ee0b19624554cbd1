"""What happens between the steps of a stage."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from refrag_components.training.progress import Progress

__all__ = ["Clock"]


class Clock(TrainerCallback):
    """Reads the clock once per step, before the learning rates are set, and ends the stage on time.

    Args:
        progress: Of the stage.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Reads the clock."""
        self._progress.tick()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the stage when its time is over."""
        if self._progress.is_over(state.global_step):
            control.should_training_stop = True
