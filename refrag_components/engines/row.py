"""An answer in the making that is a row of a batch of ours."""

from __future__ import annotations

from typing import Any

from refrag_components.engines.growing_answer import GrowingAnswer
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import Sampler

__all__ = ["Row"]


class Row(GrowingAnswer):
    """One answer in the making, with what chooses its tokens.

    Args:
        layout: The prompt.
        sampler: Chooses the tokens.
        **others: As for ``GrowingAnswer``.

    Attributes:
        sampler: Chooses the tokens.
    """

    def __init__(self, layout: Layout, *, sampler: Sampler, **others: Any) -> None:
        super().__init__(layout, **others)
        self.sampler = sampler
