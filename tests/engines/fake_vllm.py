"""Stands in for vLLM where it is not installed: its names, and a decoder behind them.

It reads prompts as vLLM documents them, so that what is passed can be seen; it proves nothing about
vLLM, which ``test_vllm_for_real.py`` runs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

__all__ = ["DeadError", "FakeEngine", "greedy", "install"]

Prompt = dict[str, Any]


class FakeEngine:
    """An ``AsyncLLM`` that decodes greedily, one prompt at a time.

    Attributes:
        arguments: What it was made with.
        prompts: What it was asked.
        params: How its answers were to be sampled.
        aborted: Requests that were given up.
        hold: While it is set, no token comes.
        broken: Raised in place of the next token.
        is_shut: Whether ``shutdown`` was called.
    """

    def __init__(self, arguments: SimpleNamespace) -> None:
        self.arguments = arguments
        self._decoder: Any = AutoModelForCausalLM.from_pretrained(arguments.model).eval()
        self.model_config = SimpleNamespace(
            dtype=getattr(torch, arguments.dtype), max_model_len=arguments.max_model_len
        )
        self.prompts: list[Prompt] = []
        self.params: list[SimpleNamespace] = []
        self.aborted: list[str] = []
        self.hold = False
        self.broken: Exception | None = None
        self.is_shut = False

    async def generate(
        self, prompt: Prompt, params: SimpleNamespace, request_id: str
    ) -> AsyncGenerator[SimpleNamespace]:
        self.prompts.append(prompt)
        self.params.append(params)
        ids = torch.tensor([prompt["prompt_token_ids"]])
        embeds = self._decoder.get_input_embeddings()(ids)
        if "prompt_embeds" in prompt:
            is_token = torch.tensor(prompt["prompt_is_token_ids"])[:, None]
            embeds = torch.where(is_token, embeds[0], prompt["prompt_embeds"])[None]
        try:
            for token, logprob in greedy(self._decoder, embeds, params.max_tokens):
                while self.hold:
                    await asyncio.sleep(0.001)
                if self.broken is not None:
                    raise self.broken
                yield SimpleNamespace(
                    outputs=[
                        SimpleNamespace(
                            token_ids=[token], logprobs=[{token: SimpleNamespace(logprob=logprob)}]
                        )
                    ]
                )
                if token in getattr(params, "stop_token_ids", ()):
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    def shutdown(self) -> None:
        self.is_shut = True


def greedy(decoder: Any, embeds: torch.Tensor, count: int) -> Iterator[tuple[int, float]]:
    """The likeliest tokens after embeddings, shape (1, n, d_dec), and their log-probabilities."""
    for _ in range(count):
        with torch.inference_mode():
            scores = decoder(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        token = int(scores.argmax())
        yield token, float(scores[token])
        with torch.inference_mode():
            row = decoder.get_input_embeddings()(torch.tensor([[token]]))
            embeds = torch.cat([embeds, row], dim=1)


class DeadError(Exception):
    """In place of ``EngineDeadError``."""


def install(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Puts the stand-in where vLLM would be, and returns the engines that are made with it."""
    made: list[FakeEngine] = []

    def from_engine_args(arguments: SimpleNamespace) -> FakeEngine:
        if getattr(arguments, "seed", 0) == -1:
            raise ValueError("no such seed")
        made.append(FakeEngine(arguments))
        return made[-1]

    names: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.config": {"StructuredOutputsConfig": SimpleNamespace},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": SimpleNamespace},
        "vllm.sampling_params": {
            "RequestOutputKind": SimpleNamespace(DELTA="delta"),
            "SamplingParams": SimpleNamespace,
            "StructuredOutputsParams": SimpleNamespace,
        },
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {
            "AsyncLLM": SimpleNamespace(from_engine_args=from_engine_args)
        },
        "vllm.v1.engine.exceptions": {"EngineDeadError": DeadError},
    }
    for name, contents in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return made
