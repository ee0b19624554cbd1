"""One answer in the making, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable

from refrag_components.engines.base import EngineDelta, FinishReason
from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import Sampler
from refrag_components.engines.text_stream import TextStream

__all__ = ["Listener", "Row"]

#: Called with each delta, or at last with the error that ended the answer; in the thread that
#: decodes, so it must not wait for anything.
Listener = Callable[[EngineDelta | BaseException], None]


class Row:
    """One answer in the making.

    Args:
        layout: The prompt.
        max_tokens: Length of the answer, at least 1; it must fit into the decoder's window.
        sampler: Chooses the tokens.
        text: Turns them into text.
        end_ids: Tokens that end the answer.
        listener: Told of each token.

    Attributes:
        layout: The prompt.
        sampler: Chooses the tokens.
        ended: Whether no more tokens are wanted: the answer is complete, has failed, or was
            withdrawn.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        max_tokens: int,
        sampler: Sampler,
        text: TextStream,
        end_ids: frozenset[int],
        listener: Listener,
    ) -> None:
        self.layout = layout
        self.sampler = sampler
        self.ended = False
        self._max_tokens = max_tokens
        self._text = text
        self._end_ids = end_ids
        self._listener = listener
        self._count = 0

    @property
    def is_at_last(self) -> bool:
        """Whether the next token ends the answer whatever it is."""
        return self.ended or self._count + 1 >= self._max_tokens

    def take(self, token_id: int) -> None:
        """Adds a generated token; sets ``ended`` if it is the last one."""
        if self.ended:  # withdrawn during this step
            return
        self._count += 1
        is_end = token_id in self._end_ids
        text = "" if is_end else self._text.push(token_id)
        reason: FinishReason | None = None
        if is_end or self._text.stopped or self._count == self._max_tokens:
            text += self._text.finish()  # which may complete a stop string
            reason = "stop" if is_end or self._text.stopped else "length"
            self.ended = True
        self._tell(EngineDelta(text, (token_id,), reason))

    def fail(self, error: BaseException) -> None:
        """Ends the answer with an error, unless it has ended."""
        if not self.ended:
            self.ended = True
            self._tell(error)

    def withdraw(self) -> None:
        """Ends the answer because nobody waits for it; it leaves its batch at the next step."""
        self.ended = True

    def _tell(self, event: EngineDelta | BaseException) -> None:
        try:
            self._listener(event)
        except Exception:  # such as an event loop that has been closed: nobody listens any longer
            self.ended = True
