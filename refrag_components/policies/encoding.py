"""Questions, encoded for the policies that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies.base import Policy

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["encode_questions"]


def encode_questions(
    model: RefragModel, asked: Sequence[tuple[str, Policy]]
) -> list[EncodedQuestion]:
    """Encodes questions in one batch, except those whose policy does not read them.

    Args:
        model: Encodes them.
        asked: Each question and the policy that gets it.

    Returns:
        One per question, in order.
    """
    read = iter(model.encode_questions([text for text, policy in asked if policy.reads_question]))
    width = model.policy_width
    return [
        next(read) if policy.reads_question else EncodedQuestion.unencoded(text, width)
        for text, policy in asked
    ]
