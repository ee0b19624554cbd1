"""The interface of an engine: layouts in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams

__all__ = [
    "AsyncEngine",
    "Engine",
    "EngineDelta",
    "EngineOutput",
    "FinishReason",
    "TokenLogprob",
]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the decoder held a token that was generated.

    It is the decoder's own probability, whatever temperature, penalty or schema made of it.

    Attributes:
        token: Its text; U+FFFD stands for what is not a whole character.
        logprob: The natural logarithm of its probability, at most 0.
        top: The likeliest tokens at this place, the likeliest first, as texts with theirs.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class EngineDelta:
    """The next part of a streamed answer.

    Attributes:
        text: Text to append; empty while a character or a stop string is incomplete.
        token_ids: The tokens that were generated for it, at least one.
        finish_reason: Set on the last delta: "stop" for an end token or a stop string, "length" for
            ``max_tokens`` or the end of the decoder's window.
        logprobs: If they were asked for: one per token, without the end token.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class EngineOutput:
    """A whole answer.

    Attributes:
        text: The answer, without special tokens and without the stop string.
        token_ids: All generated tokens, including the end token.
        finish_reason: As in ``EngineDelta``.
        time_to_first_token: Seconds from the call to this answer's first token.
        prompt_positions: Decoder positions of the layout.
        logprobs: As in ``EngineDelta``.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    time_to_first_token: float
    prompt_positions: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """Runs the decoder on layouts.

    Implementations may be called from several threads, and decode their calls together as they see
    fit: each caller waits for its own answer only. Who closes a stream wants no more of it.
    """

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
            AnswerTimeoutError: If an answer is not complete after its ``timeout``.
            ContextWindowError: If a layout leaves no room for an answer.
            StructuredOutputError: If an answer cannot be made to fit its schema.
        """
        ...

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        """Streams the answer to one layout; the texts joined are what ``generate`` returns.

        Raises:
            AnswerTimeoutError: If the answer is not complete after its ``timeout``.
            ContextWindowError: If the layout leaves no room for an answer.
            StructuredOutputError: If the answer cannot be made to fit its schema.
        """
        ...


@runtime_checkable
class AsyncEngine(Protocol):
    """An engine that needs no thread for each of its streams."""

    def astream(self, layout: Layout, params: SamplingParams) -> AsyncGenerator[EngineDelta]:
        """As ``Engine.stream``, to be called in the event loop that reads it."""
        ...
