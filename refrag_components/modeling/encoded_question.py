"""A user's question, as policies see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refrag_components.text.chunking import QUESTION_PART

__all__ = ["EncodedQuestion"]


@dataclass(frozen=True, eq=False)
class EncodedQuestion:
    """A question with its tokens and the vectors of its parts.

    Made by ``RefragModel.encode_questions``, many in one batch, or without the model by
    ``unencoded``.

    Attributes:
        text: The question as the user wrote it; may be blank.
        token_ids: Decoder token ids of the question without surrounding white space, shape
            (n_tokens,).
        vectors: One for each part of ``QUESTION_PART`` tokens, in the space of what policies read
            of a chunk vector, shape (ceil(n_tokens / QUESTION_PART), d_enc), float32; no rows for a
            blank question.

    Raises:
        ValueError: If there is not exactly one vector per part.
    """

    text: str
    token_ids: np.ndarray
    vectors: np.ndarray

    def __post_init__(self) -> None:
        parts = -(-len(self.token_ids) // QUESTION_PART)
        if self.vectors.ndim != 2 or len(self.vectors) != parts:
            msg = (
                f"{len(self.token_ids)} question tokens need {parts} vectors, got vectors of shape "
                f"{self.vectors.shape}"
            )
            raise ValueError(msg)

    @classmethod
    def unencoded(cls, text: str, width: int) -> EncodedQuestion:
        """A question for policies that do not read it: its text without tokens and vectors.

        Args:
            text: The question as the user wrote it.
            width: Of what policies read of a chunk vector, d_enc (``RefragModel.policy_width``).
        """
        return cls(text, np.zeros(0, np.int64), np.zeros((0, width), np.float32))

    @property
    def centre(self) -> np.ndarray:
        """Mean of the vectors, shape (d_enc,), float32; zeros for a blank question."""
        rows = self.vectors
        mean: np.ndarray = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1], np.float32)
        return mean

    @property
    def blanked(self) -> EncodedQuestion:
        """A blank question of the same width, for policies that must not see this one."""
        return EncodedQuestion("", self.token_ids[:0], self.vectors[:0])
