"""How the next token is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.exceptions import SamplingError, shown

__all__ = ["LONGEST", "Sampler", "SamplingParams", "is_duration", "params_by_row"]

LONGEST = 1e9  # seconds; Python's locks and queues cannot wait for much longer

# Beyond these, logits in float32 are not numbers any more.
_WARMTH = (0.0001, 10_000.0)
_PENALTY = (0.001, 1000.0)

_MOST_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one answer.

    Attributes:
        max_tokens: Maximum number of tokens to generate, at least 1.
        temperature: 0 always takes the likeliest token; from 0.0001 to 10,000, logits are divided
            by it.
        top_p: In (0, 1]; below 1, only the likeliest tokens that together reach this probability
            are drawn from.
        top_k: At least 0; only the k likeliest tokens are drawn from, 0 for all.
        repetition_penalty: From 0.001 to 1000; above 1, tokens of prompt and answer become less
            likely. Compressed chunks do not count as prompt: the decoder never saw their tokens.
        stop: Strings that end the answer and are not part of it; a single one may be a str.
            They are ignored if there is an ``answer_schema``.
        seed: The same seed gives the same answer (on the same kind of device); None for a different
            one each time.
        reproducible: Decode this answer by itself. In a batch its sums are rounded differently, in
            bfloat16 and on a GPU enough to change a word, so that the same seed, or temperature 0,
            gives the same answer among other requests only with it. Slower if many ask at once,
            and on a GPU, where it goes without CUDA graphs.
        answer_schema: JSON that the answer has to be; None for free text.
        skip_special_tokens: Leave special tokens out of the text; set it to False for a parser that
            needs them. End tokens are never part of the text.
        top_logprobs: How many of the likeliest tokens are told with each token of the answer,
            from 0 to 20; None to tell no probabilities.
        timeout: Seconds within which the answer has to be complete; None for any time.

    Raises:
        SamplingError: If a value is outside its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: str | Sequence[str] = ()
    seed: int | None = None
    reproducible: bool = False
    answer_schema: AnswerSchema | None = None
    skip_special_tokens: bool = True
    top_logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges and makes ``stop`` a tuple."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if isinstance(stop, (list, tuple)) and all(isinstance(s, str) and s for s in stop):
            object.__setattr__(self, "stop", tuple(stop))
        checks = {
            "max_tokens must be an int of at least 1": _is_int(self.max_tokens, 1),
            f"temperature must be 0 or a number in {_WARMTH[0]}..{_WARMTH[1]:g}": (
                _is_number(self.temperature)
                and (self.temperature == 0 or _WARMTH[0] <= self.temperature <= _WARMTH[1])
            ),
            "top_p must be a number in (0, 1]": _is_number(self.top_p) and 0 < self.top_p <= 1,
            "top_k must be an int of at least 0 (0 is off)": _is_int(self.top_k, 0),
            f"repetition_penalty must be a number in {_PENALTY[0]}..{_PENALTY[1]:g} (1 is off)": (
                _is_number(self.repetition_penalty)
                and _PENALTY[0] <= self.repetition_penalty <= _PENALTY[1]
            ),
            "stop must be a string that is not empty, or a list or tuple of such": isinstance(
                self.stop, tuple
            )
            and all(isinstance(s, str) and s for s in self.stop),
            "reproducible must be True or False": isinstance(self.reproducible, bool),
            "seed must be an int in 0..2**63 - 1, or None": (
                self.seed is None or (_is_int(self.seed, 0) and self.seed < 2**63)
            ),
            f"top_logprobs must be an int in 0..{_MOST_LOGPROBS}, or None": (
                self.top_logprobs is None
                or (_is_int(self.top_logprobs, 0) and self.top_logprobs <= _MOST_LOGPROBS)
            ),
            f"timeout must be a number of seconds above 0, at most {LONGEST:g}, or None": (
                self.timeout is None or is_duration(self.timeout)
            ),
        }
        for rule, holds in checks.items():
            if not holds:
                msg = f"{rule}, got {shown(getattr(self, rule.split()[0]))}"
                raise SamplingError(msg)


def is_duration(value: object) -> bool:
    """Whether a value is a number of seconds that can be waited for."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return 0 < float(value) <= LONGEST
    except OverflowError:
        return False


def _is_number(value: object) -> bool:
    """Whether a value is a number, whatever its type, except a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def params_by_row(
    params: SamplingParams | Sequence[SamplingParams], n_rows: int
) -> list[SamplingParams]:
    """Returns the parameters of each row; one for all gets the seeds seed, seed + 1, ...

    Raises:
        SamplingError: If a sequence does not hold one for each row.
    """
    if isinstance(params, SamplingParams):
        if params.seed is None:
            return [params] * n_rows
        return [replace(params, seed=params.seed + i) for i in range(n_rows)]
    if len(params) != n_rows:
        msg = f"got {len(params)} sampling parameters for {n_rows} prompts; pass one, or one each"
        raise SamplingError(msg)
    return list(params)


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        params: Sampling parameters.
        prompt_ids: Token ids of the prompt that the decoder sees as tokens, shape (n,), int64, on
            the decoder's device; used by the repetition penalty only.
        constraint: Excludes tokens before one is drawn; None for a free choice.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Tensor,
        constraint: LogitsProcessor | None = None,
    ) -> None:
        # Any: transformers asks for LongTensor, which no torch function is declared to return.
        self._processors: Any = LogitsProcessorList()
        self._seen = prompt_ids
        self._n_logprobs = params.top_logprobs
        self._logits: Tensor | None = None  # of the last token, if they are asked for
        self._generator: torch.Generator | None = None
        if params.repetition_penalty != 1.0:
            penalty = RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty))
            self._processors.append(penalty)
        if constraint is not None:  # before top-k and top-p, which cut what it allows
            self._processors.append(constraint)
        if params.temperature > 0:
            self._generator = torch.Generator(prompt_ids.device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)
            if params.temperature != 1.0:
                self._processors.append(TemperatureLogitsWarper(float(params.temperature)))
            if params.top_k:
                self._processors.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1.0:
                self._processors.append(TopPLogitsWarper(float(params.top_p)))

    def __call__(self, logits: Tensor) -> Tensor:
        """Chooses a token.

        Args:
            logits: The decoder's scores for the next token, shape (vocabulary,).

        Returns:
            Its id, shape (1,), int64, on the logits' device.
        """
        if self._n_logprobs is not None:
            self._logits = logits
        scores = logits.float().unsqueeze(0)
        scores = self._processors(self._seen.unsqueeze(0), scores)
        if self._generator is None:
            token = scores.argmax(dim=-1)
        else:
            probabilities = scores.softmax(dim=-1)
            token = torch.multinomial(probabilities, 1, generator=self._generator)[0]
        if self._processors:  # nobody else looks at it
            self._seen = torch.cat([self._seen, token])
        return token

    def logprobs(self, token_id: int) -> tuple[float, list[tuple[int, float]]] | None:
        """What the decoder thought of the token that was chosen last.

        Args:
            token_id: That token.

        Returns:
            Its log probability, and ids and log probabilities of the likeliest tokens; None unless
            they were asked for.
        """
        if self._logits is None or self._n_logprobs is None:
            return None
        logprobs = self._logits.float().log_softmax(dim=-1)
        likeliest = logprobs.topk(min(self._n_logprobs, len(logprobs)))
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return float(logprobs[token_id]), list(pairs)
