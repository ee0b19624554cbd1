"""What happens between the steps of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from refrag_components.training.progress import Progress

if TYPE_CHECKING:
    from refrag_components.training.objective import TrainingModel

__all__ = ["Clock", "Fading"]


class Clock(TrainerCallback):
    """Reads the clock once a step, before the learning rates are set, and ends the stage on time.

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


class Fading(TrainerCallback):
    """Lets the alignment of the context fade over a stage.

    The states at its last token are where a chunk embedding's states should start from. Where they
    end, the divergence from the full text knows best: the chunk's other tokens count too.

    Args:
        model: Whose weight is set before each step.
        weight: At the start.
        progress: Of the stage.
    """

    def __init__(self, model: TrainingModel, weight: float, progress: Progress) -> None:
        self._model = model
        self._weight = weight
        self._progress = progress

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Sets the weight."""
        self._model.context_alignment = self._weight * self._progress.left(state.global_step)
