"""What a policy is: it scores chunks, a budget decides how many of them expand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies.budget import Budget
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["Policy", "PolicyInputs"]


@dataclass(frozen=True, eq=False)
class PolicyInputs:
    """What a policy may look at.

    Attributes:
        passages: The prompt's passages in order, with at least one chunk in all.
        question: What the user asks; blank if there is no question, and not encoded for a policy
            that does not read it.
    """

    passages: Sequence[ChunkVectors]
    question: EncodedQuestion

    @property
    def n_chunks(self) -> int:
        """Chunks of all passages."""
        return sum(passage.n_chunks for passage in self.passages)

    @property
    def vectors(self) -> list[np.ndarray]:
        """What to compare with the question: the end of each chunk vector, as wide as its vectors.

        Returns:
            Views of the passages' vectors, shape (n_chunks, d_enc) each, float32.
        """
        width = self.question.vectors.shape[1]
        return [passage.vectors[:, -width:] for passage in self.passages]


class Policy(ABC):
    """Decides which chunks matter most.

    Scores depend on the inputs alone. Implementations are safe to use from several threads.
    """

    name: ClassVar[str]
    #: What it expands first, in words; of policies that can be chosen by name.
    expands_first: ClassVar[str]
    #: Incremented when the same inputs get different scores, so that measurements do not mix.
    revision: ClassVar[int] = 1
    #: Whether it looks at the question's tokens or vectors; if not, only its text may be there.
    reads_question: ClassVar[bool] = True

    @abstractmethod
    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Scores every chunk of every passage, in order.

        Returns:
            Shape (total chunks,), float32, finite; higher expands first.
        """

    @classmethod
    def made_for(cls, model: RefragModel) -> Policy:
        """The policy as its name stands for it, with its default settings.

        Args:
            model: The model whose passages it is to score.

        Raises:
            UnknownPolicyError: If the model does not carry what the policy needs.
        """
        return cls()

    def of(self, model: RefragModel) -> Policy:
        """The policy for a model whose passages it is to score; itself unless it needs the model.

        Args:
            model: The model.
        """
        return self

    def budget(self, requested: Budget) -> Budget:
        """The budget that this policy works with; the requested one unless it has its own."""
        return requested
