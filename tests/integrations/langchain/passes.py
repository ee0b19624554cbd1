"""How calls that come at the same time are put together, whatever the machine does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from refrag_components.generation.shared_checkpoints import Checkpoint

__all__ = ["Passes"]


class Passes:
    """Stands before ``generate`` of a checkpoint's engine or generator and counts its passes.

    Attributes:
        sizes: How many prompts each pass had.
    """

    def __init__(self, checkpoint: Checkpoint, generate: Callable[..., Any]) -> None:
        self.sizes: list[int] = []
        self._batcher = checkpoint._batcher
        self._generate = generate
        self._awaited = 0

    def start(self, at_once: int) -> None:
        """Counts from zero; the first pass begins when all who call at once are there.

        Args:
            at_once: How many certainly call at the same time.
        """
        self.sizes.clear()
        self._awaited = at_once

    def __call__(self, prompts: Sequence[Any], params: Any) -> Any:
        """Notes a pass and runs it."""
        self.sizes.append(len(prompts))
        while len(prompts) + len(self._batcher._waiting) < self._awaited:
            time.sleep(0.001)
        self._awaited = 0
        return self._generate(prompts, params)
