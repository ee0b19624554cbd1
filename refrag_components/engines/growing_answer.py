"""One answer in the making, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable

from refrag_components.engines.base import EngineDelta, FinishReason, TokenLogprob
from refrag_components.engines.layout import Layout
from refrag_components.engines.text_stream import TextStream

__all__ = ["GrowingAnswer", "Listener"]

#: Called with each delta, or at last with the error that ended the answer; in the thread that
#: decodes, so it must not wait for anything.
Listener = Callable[[EngineDelta | BaseException], None]


class GrowingAnswer:
    """One answer in the making, whatever chooses its tokens.

    Args:
        layout: The prompt.
        max_tokens: Length of the answer, at least 1; it must fit into the decoder's window.
        text: Turns the tokens into text.
        end_ids: Tokens that end the answer.
        listener: Told of each token.

    Attributes:
        layout: The prompt.
        ended: Whether no more tokens are wanted: the answer is complete, has failed, or was
            withdrawn.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        max_tokens: int,
        text: TextStream,
        end_ids: frozenset[int],
        listener: Listener,
    ) -> None:
        self.layout = layout
        self.ended = False
        self._max_tokens = max_tokens
        self._text = text
        self._end_ids = end_ids
        self._listener = listener
        self._count = 0

    def take(self, token_id: int) -> None:
        """Adds a generated token; sets ``ended`` if it is the last one."""
        if self.ended:  # withdrawn during this step
            return
        self._count += 1
        is_end = token_id in self._end_ids
        text = "" if is_end else self._text.push(token_id)
        logprobs = () if is_end else self._logprobs(token_id)
        reason: FinishReason | None = None
        if is_end or self._text.stopped or self._count == self._max_tokens:
            text += self._text.finish()  # which may complete a stop string
            reason = "stop" if is_end or self._text.stopped else "length"
            self.ended = True
        self._tell(EngineDelta(text, (token_id,), reason, logprobs))

    def fail(self, error: BaseException) -> None:
        """Ends the answer with an error, unless it has ended."""
        if not self.ended:
            self.ended = True
            self._tell(error)

    def withdraw(self) -> None:
        """Ends the answer because nobody waits for it; it leaves its batch at the next step."""
        self.ended = True

    def _logprobs(self, token_id: int) -> tuple[TokenLogprob, ...]:
        """How likely the token was, and others; nothing if that is not told."""
        return ()

    def _tell(self, event: EngineDelta | BaseException) -> None:
        try:
            self._listener(event)
        except Exception:  # such as an event loop that has been closed: nobody listens any longer
            self.ended = True
