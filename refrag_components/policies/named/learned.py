"""The policy that was trained for its checkpoint and sees the chunks alone.

Its network: ``refrag_components.modeling.policy_network``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from refrag_components.exceptions import UnknownPolicyError
from refrag_components.forking import computing
from refrag_components.modeling.policy_features import Observation
from refrag_components.modeling.transfer import vectors_on_device
from refrag_components.policies.base import Policy, PolicyInputs
from refrag_components.vectors import padded_token_ids

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.policy_network import PolicyNetwork

__all__ = ["LearnedPolicy", "observe"]


class LearnedPolicy(Policy):
    """Scores chunks by the network that the checkpoint carries; it sees the chunks only.

    Args:
        network: The checkpoint's network of this policy.
    """

    name: ClassVar[str] = "learned"
    expands_first: ClassVar[str] = "chunks that a trained network found worth expanding"
    reads_question: ClassVar[bool] = False
    _late: ClassVar[float] = 0.0

    def __init__(self, network: PolicyNetwork) -> None:
        self._network = network

    @classmethod
    def made_for(cls, model: RefragModel) -> LearnedPolicy:
        """The policy with the network that the model carries."""
        if cls.name not in model.policies:
            msg = (
                f"this checkpoint carries no trained policy {cls.name!r}; train one with "
                "`refrag train run --stage policy`, or choose another, such as 'late-interaction'"
            )
            raise UnknownPolicyError(msg)
        network: Any = model.policies[cls.name]
        return cls(network)

    @computing()
    @torch.inference_mode()
    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """The network's logits: differences are log-odds of being picked next."""
        if not self._network.sees_question:
            inputs = replace(inputs, question=inputs.question.blanked)
        seen = observe(inputs, self._network.rarity.device)
        logits: np.ndarray = self._network(seen, late=self._late)[0].cpu().numpy()
        return logits


def observe(inputs: PolicyInputs, device: torch.device | str = "cpu") -> Observation:
    """Lays out one prompt for a network, on its device; a blank question counts as no question."""
    passages = [passage for passage in inputs.passages if passage.n_chunks]
    ids, used = padded_token_ids(passages)
    question = inputs.question
    device = torch.device(device)
    width = question.vectors.shape[1]
    vectors = vectors_on_device(passages, device)[:, -width:].float()
    arrays = (
        ids,
        used,
        np.repeat(np.arange(len(passages)), [passage.n_chunks for passage in passages]),
        question.vectors,
        np.ones(len(question.vectors), dtype=bool),
        question.token_ids.astype(np.int64),
    )
    rows = (vectors, *(torch.from_numpy(array).to(device) for array in arrays))
    return Observation(*(row.unsqueeze(0) for row in rows))
