"""Sampling parameters by vLLM's names, for its classes and for its server."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from refrag_components.engines.json_schema import WHITE_SPACE, AnswerSchema
from refrag_components.engines.sampling import SamplingParams
from refrag_components.exceptions import SamplingError, StructuredOutputError

__all__ = ["answer_format", "vllm_sampling"]

# vLLM refuses what is above, and raises what is below to it; 0 is something else.
_TEMPERATURES = (0.01, 2.0)


def vllm_sampling(
    params: SamplingParams, *, max_tokens: int, end_ids: Collection[int]
) -> dict[str, Any]:
    """What chooses the tokens, except the format of the answer.

    Stop strings stay here: vLLM is told to stop when one is found, so that text and tokens are
    those of every other engine.

    Args:
        params: Sampling parameters.
        max_tokens: Length of the answer, at least 1.
        end_ids: Tokens that end it.

    Raises:
        SamplingError: If vLLM cannot do what a parameter asks for.
    """
    temperature = float(params.temperature)
    if temperature and not _TEMPERATURES[0] <= temperature <= _TEMPERATURES[1]:
        msg = (
            f"with vLLM, temperature must be 0 or a number in {_TEMPERATURES[0]}.."
            f"{_TEMPERATURES[1]:g}, got {temperature:g}"
        )
        raise SamplingError(msg)
    if params.top_logprobs is not None:
        raise SamplingError('logprobs are not told with vLLM; use engine="transformers"')
    if params.reproducible:
        msg = 'vLLM decodes requests together; for reproducible=True use engine="transformers"'
        raise SamplingError(msg)
    return {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": float(params.top_p),
        "top_k": params.top_k,
        "repetition_penalty": float(params.repetition_penalty),
        "seed": params.seed,
        "stop_token_ids": sorted(end_ids),
    }


def answer_format(schema: AnswerSchema) -> dict[str, Any]:
    """The JSON schema that an answer has to fit, as vLLM's llguidance backend reads it.

    Raises:
        StructuredOutputError: If the prompt already ends with a part of the JSON.
    """
    if schema.prefix:
        msg = (
            "vLLM cannot continue JSON that the prompt begins, which a tool_choice asks for; leave "
            'the choice to the decoder, or use engine="transformers"'
        )
        raise StructuredOutputError(msg)
    parsed = json.loads(schema.text)
    return {**parsed, "x-guidance": WHITE_SPACE} if isinstance(parsed, dict) else parsed
