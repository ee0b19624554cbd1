"""Tokens from a vLLM server, by prompt embeddings over its OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.layout import Layout
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.vllm_prompt import embedded_prompt
from refrag_components.engines.vllm_source import VllmRequest
from refrag_components.exceptions import EngineError, SamplingError, ServerError

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["FromServer"]

_TIMEOUT = httpx.Timeout(600.0, connect=10.0, pool=None)
_AT_ONCE = 10.0  # seconds until it has said what it serves
# Defaults of the served model would stand in for what is not said.
_PLAIN: dict[str, Any] = {
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # what ends the answer is among ``stop_token_ids``
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "return_token_ids": True,
    "skip_special_tokens": False,
}


class FromServer:
    """A server that runs ``vllm serve FOLDER --enable-prompt-embeds``.

    All of a prompt is sent as embeddings, since its completions take either these or tokens.

    Args:
        model: Makes the embeddings; ``export_decoder`` has written what the server runs.
        base_url: Such as "http://gpu:8000/v1".
        api_key: The server's ``--api-key``, if it has one.
    """

    def __init__(self, model: RefragModel, base_url: str, api_key: str | None) -> None:
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._name = ""
        self._window = model.window
        self._client: Any = None

    @property
    def window(self) -> int:
        """As ``TokenSource``."""
        return self._window

    async def start(self) -> None:
        """As ``TokenSource``; asks what the server serves."""
        self._client = httpx.AsyncClient(
            base_url=f"{self._base_url}/",
            headers=self._headers,
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=None),
        )
        with self._faults():
            response = await self._client.get("models", timeout=_AT_ONCE)
            _check(response)
            served = response.json()["data"]
        if len(served) != 1:
            names = ", ".join(model["id"] for model in served)
            raise ServerError(f"{self._base_url} serves several models: {names}; serve one of them")
        self._name = served[0]["id"]
        self._window = min(self._window, served[0].get("max_model_len") or self._window)

    def check(self, params: SamplingParams) -> None:
        """As ``TokenSource``.

        Raises:
            SamplingError: If there is a repetition penalty: the server is sent no tokens to which
                it could apply, and such requests have ended vLLM's process (vLLM issue 57719).
        """
        if params.repetition_penalty != 1:
            msg = (
                "a vLLM server cannot apply repetition_penalty to embeddings; set it to 1, or use "
                'engine="vllm" in process'
            )
            raise SamplingError(msg)

    async def tokens(self, layout: Layout, request: VllmRequest) -> AsyncGenerator[Sequence[int]]:
        """As ``TokenSource``; closing it closes the connection, at which the server stops."""
        # Megabytes for a long prompt: not in the loop, where other answers go on.
        content = await asyncio.to_thread(self._content, layout, request)
        with self._faults():
            async with self._client.stream("POST", "completions", content=content) as response:
                if response.is_error:
                    await response.aread()
                _check(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield _token_ids(json.loads(line.removeprefix("data: ")))

    async def likeliest(self, token_ids: np.ndarray) -> tuple[int, float]:
        """As ``TokenSource``; every token is passed as an embedding."""
        rows = self._model.token_embeddings(token_ids).detach().cpu()
        body = self._body(rows, secrets.token_urlsafe())
        body |= {"logprobs": 1, "max_tokens": 1, "temperature": 0.0}
        with self._faults():
            response = await self._client.post("completions", content=json.dumps(body))
            _check(response)
            (choice,) = response.json()["choices"]
        return choice["token_ids"][0], choice["logprobs"]["token_logprobs"][0]

    def close(self) -> None:
        """As ``TokenSource``; connections end with the loop."""

    def _content(self, layout: Layout, request: VllmRequest) -> bytes:
        embeddings = embedded_prompt(self._model, layout, self._model.dtype)
        body = {**self._body(embeddings, request.salt), **request.sampling, "stream": True}
        if request.schema is not None:
            body["structured_outputs"] = {"json": request.schema}
        return json.dumps(body).encode()

    def _body(self, embeddings: Tensor, salt: str) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(embeddings.contiguous().clone(), file)  # not the storage of a larger tensor
        return {
            "model": self._name,
            "prompt_embeds": base64.b64encode(file.getbuffer()).decode(),
            "cache_salt": salt,
            **_PLAIN,
        }

    @contextmanager
    def _faults(self) -> Generator[None]:
        """Errors of the network as the library's.

        Raises:
            ServerError: In their place.
        """
        try:
            yield
        except httpx.HTTPError as error:
            msg = f"{self._base_url} does not answer ({error!r}); does a vLLM server run there?"
            raise ServerError(msg) from error


def _token_ids(event: dict[str, Any]) -> list[int]:
    if "error" in event:
        raise ServerError(f"the vLLM server failed: {event['error'].get('message')}")
    ids = [i for choice in event["choices"] for i in choice.get("token_ids") or ()]
    if event["choices"] and "token_ids" not in event["choices"][0]:
        raise EngineError("this vLLM server returns no token ids; it is too old")
    return ids


def _check(response: httpx.Response) -> None:
    """Refuses answers that are errors.

    Raises:
        ServerError: With what the server says.
    """
    if not response.is_error:
        return
    try:
        body = response.json()
        about = body.get("error", body)
        message = about.get("message", "without a reason") if isinstance(about, dict) else about
    except (AttributeError, ValueError):
        message = "without a reason"
    hint = "; set the environment variable VLLM_API_KEY" if response.status_code == 401 else ""
    raise ServerError(f"the vLLM server answered {response.status_code}: {message}{hint}")
