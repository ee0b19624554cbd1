"""One answer in the making, within a running batch."""

from __future__ import annotations

from typing import Any

from refrag_components.engines.base import TokenLogprob
from refrag_components.engines.growing_answer import GrowingAnswer
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import Sampler

__all__ = ["Row"]


class Row(GrowingAnswer):
    """One answer in the making, with what chooses its tokens.

    Args:
        layout: The prompt.
        sampler: Chooses the tokens.
        alone: Whether no other row may be in its batch.
        **others: As for ``GrowingAnswer``.

    Attributes:
        sampler: Chooses the tokens.
        alone: Whether no other row may be in its batch.
    """

    def __init__(self, layout: Layout, *, sampler: Sampler, alone: bool, **others: Any) -> None:
        super().__init__(layout, **others)
        self.sampler = sampler
        self.alone = alone

    @property
    def is_at_last(self) -> bool:
        """Whether the next token ends the answer whatever it is."""
        return self.ended or self._count + 1 >= self._max_tokens

    def _logprobs(self, token_id: int) -> tuple[TokenLogprob, ...]:
        told = self.sampler.logprobs(token_id)
        if told is None:
            return ()
        top = tuple((self._text.of_token(other), logprob) for other, logprob in told[1])
        return (TokenLogprob(self._text.of_token(token_id), told[0], top),)
