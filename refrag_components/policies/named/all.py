"""Everything expands: the plain decoder."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.policies.budget import Budget, FractionBudget

__all__ = ["AllPolicy"]


class AllPolicy(Policy):
    """Expands every chunk, whatever the budget."""

    name: ClassVar[str] = "all"
    expands_first: ClassVar[str] = "every chunk"
    reads_question: ClassVar[bool] = False

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """All equal; if not everything fits the window, the earlier chunks expand."""
        return np.zeros(inputs.n_chunks, dtype=np.float32)

    def budget(self, requested: Budget) -> Budget:
        """Every chunk."""
        return FractionBudget(1.0)
