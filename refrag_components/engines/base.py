"""The interface of an engine: layouts in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams

__all__ = ["Engine", "EngineDelta", "EngineOutput", "FinishReason"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class EngineDelta:
    """The next part of a streamed answer.

    Attributes:
        text: Text to append; empty while a character or a stop string is incomplete.
        token_ids: The tokens that were generated for it, at least one.
        finish_reason: Set on the last delta: "stop" for an end token or a stop string, "length" for
            ``max_tokens`` or the end of the decoder's window.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class EngineOutput:
    """A whole answer.

    Attributes:
        text: The answer, without special tokens and without the stop string.
        token_ids: All generated tokens, including the end token.
        finish_reason: As in ``EngineDelta``.
        time_to_first_token: Seconds from the call to this answer's first token.
        prompt_positions: Decoder positions of the layout.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    time_to_first_token: float
    prompt_positions: int


class Engine(Protocol):
    """Runs the decoder on layouts. Implementations may be called from several threads."""

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        """Answers several layouts.

        Args:
            layouts: One per prompt.
            params: One for each layout, or one for all; then row i samples with ``seed + i``, so
                that equal prompts get different answers.

        Returns:
            One answer per layout, in order.

        Raises:
            ContextWindowError: If a layout leaves no room for an answer.
            StructuredOutputError: If an answer cannot be made to fit its schema.
        """
        ...

    def stream(self, layout: Layout, params: SamplingParams) -> Iterator[EngineDelta]:
        """Streams the answer to one layout; the texts joined are what ``generate`` returns.

        Raises:
            ContextWindowError: If the layout leaves no room for an answer.
            StructuredOutputError: If the answer cannot be made to fit its schema.
        """
        ...
