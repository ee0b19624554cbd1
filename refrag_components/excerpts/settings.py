"""Settings of excerpts as the integrations take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation

from refrag_components.excerpts.counting import tiktoken_counter
from refrag_components.excerpts.excerpter import Excerpter, check_excerpts
from refrag_components.excerpts.pieces import Excerpt, Unit
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.policies import DEFAULT_POLICY, Policy, check_policy
from refrag_components.stores.common.base import ChunkStore

__all__ = ["SPANS_METADATA", "ExcerptSettings"]

#: Where frameworks' documents keep the character offsets of what was taken.
SPANS_METADATA = "refrag_spans"

_logger = logging.getLogger(__name__)


class _Made:
    """An excerpter and what it was made of; copied and pickled without them, as settings are."""

    content: tuple[list[object], Excerpter] | None = None

    def __reduce__(self) -> tuple[type[_Made], tuple[()]]:
        return _Made, ()


class ExcerptSettings(BaseModel):
    """Settings that excerpts have in every framework.

    Attributes:
        store: Where chunk vectors are kept; the checkpoint's store in memory by default.
        device: Where the checkpoint runs.
        policy: Which chunks are read: a policy or its name, see ``Excerpter``.
        budget: A number in 0..1 is a fraction of the tokens of all passages, an int of at least 2 a
            number of tokens, "auto" stops where the scores fall.
        unit: "sentences", or "words": the words of a chunk.
        protect: Regular expressions of what must be read, such as numbers.
        tokens_of: The model that will read the excerpts, such as "gpt-4o", or its encoding: tokens
            are then counted by tiktoken. By default they are those of the checkpoint's decoder.

    Raises:
        BudgetError: If the budget is none of these.
        MissingExtraError: If ``tokens_of`` is given and tiktoken is not installed.
        UnknownPolicyError: If no policy has that name.
        ValueError: If the unit or an expression is wrong, or tiktoken does not know the model.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: SkipValidation[ChunkStore | None] = Field(default=None, exclude=True, repr=False)
    device: str | None = None
    policy: SkipValidation[str | Policy] = DEFAULT_POLICY
    budget: SkipValidation[float | Literal["auto"]] = 0.25
    unit: SkipValidation[Unit] = "sentences"
    protect: Sequence[str] = ()
    tokens_of: str | None = None

    _made: _Made = PrivateAttr(default_factory=_Made)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        # Not a validator: pydantic would wrap the library's own errors.
        check_excerpts(self.budget, self.unit, self.protect)
        check_policy(self.policy)
        if self.tokens_of is not None:
            tiktoken_counter(self.tokens_of)

    def _excerpts(self, model: str, question: str, passages: Sequence[str]) -> list[Excerpt] | None:
        """An excerpt of each passage; None, with a warning in the log, if anything goes wrong.

        An answer from whole passages costs more than one from excerpts; no answer costs most.
        """
        try:
            return self._excerpter(model).extract(question, passages)
        except (
            Exception
        ) as error:  # stores, downloads and other people's policies fail in many ways
            _logger.warning("passages are passed on whole: %s", error)
            return None

    def _excerpter(self, model: str) -> Excerpter:
        checkpoint = load_checkpoint(model, self.device)
        # Settings may be changed, and copied with changes, after they were used.
        made_of: list[object] = [checkpoint, self.store, self.policy, self.budget, self.unit]
        made_of += [list(self.protect), self.tokens_of]
        made = self._made.content
        if made is None or made[0] != made_of:
            excerpter = Excerpter(
                checkpoint.model,
                store=checkpoint.generator.store if self.store is None else self.store,
                policy=self.policy,
                budget=self.budget,
                unit=self.unit,
                protect=self.protect,
                count_tokens=None if self.tokens_of is None else tiktoken_counter(self.tokens_of),
            )
            self._made.content = made = (made_of, excerpter)
        return made[1]
