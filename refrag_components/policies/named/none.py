"""Nothing expands."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.policies.budget import Budget, FractionBudget

__all__ = ["NonePolicy"]


class NonePolicy(Policy):
    """Expands no chunk, whatever the budget; needs ``rest="compress"``, or nothing is read."""

    name: ClassVar[str] = "none"
    expands_first: ClassVar[str] = "no chunk"
    reads_question: ClassVar[bool] = False

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """All equal."""
        return np.zeros(inputs.n_chunks, dtype=np.float32)

    def budget(self, requested: Budget) -> Budget:
        """No chunk."""
        return FractionBudget(0.0)
