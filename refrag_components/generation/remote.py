"""A generator on another machine: ``refrag serve``, by the same four methods."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any

import httpx

from refrag_components.cached import cached_property
from refrag_components.engines.sampling import SamplingParams
from refrag_components.exceptions import (
    AnswerTimeoutError,
    ContextWindowError,
    RefragError,
    ServerError,
    shown,
)
from refrag_components.generation.openai_logprobs import read_logprobs
from refrag_components.generation.patience import Patience
from refrag_components.generation.remote_request import RemoteRequest, Served, request_body
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Answer, AnswerDelta

__all__ = ["RemoteGenerator", "remote_generator"]

_AT_ONCE = 16  # requests of one call


class RemoteGenerator:
    """Has a server answer requests; sends the chunk vectors that are at hand along.

    Safe to use from several threads and event loops.

    Args:
        base_url: The server, such as "http://gpu:8000/v1".
        model: What the server calls its model.
        api_key: One of its tokens, if it asks for one.
        patience: How long it is waited for; by default as ``Patience()``.

    Raises:
        ServerError: If the URL is not one.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._options: dict[str, Any] = {
            "base_url": f"{self._base_url}/",
            "headers": {} if api_key is None else {"authorization": f"Bearer {api_key}"},
        }
        self._patience = patience or Patience()
        try:
            self._client = httpx.Client(**self._options)
        except httpx.InvalidURL as error:
            msg = f'base_url must be a URL such as "http://gpu:8000/v1", got {shown(base_url)}'
            raise ServerError(msg) from error

    @cached_property
    def served(self) -> Served:
        """What the server's model is.

        Raises:
            ServerError: If the server cannot be reached, or has no such model.
        """
        with self._faults():
            response = self._client.get("models", timeout=self._patience.at_first)
        _check(response)
        try:
            models = {model["id"]: model for model in response.json()["data"]}
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{self._base_url} is not a server of models; set base_url to one, with its /v1"
            raise ServerError(msg) from error
        if self._model not in models or "refrag" not in models[self._model]:
            msg = (
                f"{self._base_url} does not serve {self._model!r}; it serves {', '.join(models)}; "
                "set model= to one of them"
            )
            raise ServerError(msg)
        about = models[self._model]["refrag"]
        return Served(about["fingerprint"], about["chunk_size"], about["width"], about["window"])

    def generate(
        self, requests: Sequence[RemoteRequest], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Answer]:
        """As ``RefragGenerator.generate``; one for all means the same parameters for each.

        Raises:
            AnswerTimeoutError: If an answer is not complete after its ``timeout``.
            ContextWindowError: If a prompt does not fit.
            ServerError: If the server cannot be reached or refuses a request.
        """
        each = [params] * len(requests) if isinstance(params, SamplingParams) else params
        if len(requests) == 1:
            return [self._answer(requests[0], each[0])]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._answer, requests, each))

    def stream(self, request: RemoteRequest, params: SamplingParams) -> Generator[AnswerDelta]:
        """As ``RefragGenerator.stream``; closing it ends the decoding on the server.

        Raises:
            RefragError: As ``generate``; with the first delta.
        """
        clock = _Clock(params, self._patience)
        path, body = self._written(request, params, stream=True)
        with (
            self._faults(clock),
            self._client.stream("POST", path, json=body, timeout=clock.left()) as response,
        ):
            if response.is_error:
                response.read()
            _check(response)
            reader = _Events()
            for line in response.iter_lines():
                clock.check()
                yield from reader.deltas(line)

    async def agenerate(self, request: RemoteRequest, params: SamplingParams) -> Answer:
        """As ``RefragGenerator.agenerate``."""
        clock = _Clock(params, self._patience)
        path, body = await asyncio.to_thread(self._written, request, params, stream=False)
        async with self._afaults(clock), httpx.AsyncClient(**self._options) as client:
            return _answer(await client.post(path, json=body, timeout=clock.left()))

    async def astream(
        self, request: RemoteRequest, params: SamplingParams
    ) -> AsyncGenerator[AnswerDelta]:
        """As ``RefragGenerator.astream``."""
        clock = _Clock(params, self._patience)
        path, body = await asyncio.to_thread(self._written, request, params, stream=True)

        async def deltas() -> AsyncGenerator[AnswerDelta]:
            async with (
                self._afaults(clock),
                httpx.AsyncClient(**self._options) as client,
                client.stream("POST", path, json=body, timeout=clock.left()) as response,
            ):
                if response.is_error:
                    await response.aread()
                _check(response)
                reader = _Events()
                async for line in response.aiter_lines():
                    clock.check()
                    for delta in reader.deltas(line):
                        yield delta

        return deltas()

    def _answer(self, request: RemoteRequest, params: SamplingParams) -> Answer:
        clock = _Clock(params, self._patience)
        path, body = self._written(request, params, stream=False)
        with self._faults(clock):
            return _answer(self._client.post(path, json=body, timeout=clock.left()))

    def _written(
        self, request: RemoteRequest, params: SamplingParams, *, stream: bool
    ) -> tuple[str, dict[str, Any]]:
        body = request_body(request, params, self.served)
        path = "chat/completions" if request.is_chat else "completions"
        return path, {"model": self._model, "stream": stream, **body}

    @contextmanager
    def _faults(self, clock: _Clock | None = None) -> Generator[None]:
        """Errors of the network as the library's.

        Raises:
            AnswerTimeoutError: In their place, if the time of the answer is up.
            ServerError: In their place.
        """
        try:
            yield
        except httpx.HTTPError as error:
            if clock is not None and isinstance(error, httpx.TimeoutException):
                clock.check()
            advice = self._patience.advice(error, at_first=clock is None)
            raise ServerError(f"{self._base_url} {advice}") from error

    @asynccontextmanager
    async def _afaults(self, clock: _Clock) -> AsyncGenerator[None]:
        with self._faults(clock):
            yield


@lru_cache(maxsize=16)
def remote_generator(
    base_url: str, model: str, api_key: str | None, patience: Patience
) -> RemoteGenerator:
    """The generator of a server; the same for all models that use it in the same way."""
    return RemoteGenerator(base_url, model, api_key, patience)


class _Clock:
    """The time that an answer may take; the server's own limit ends one without."""

    def __init__(self, params: SamplingParams, patience: Patience) -> None:
        self._patience = patience
        seconds = params.timeout
        self._deadline = None if seconds is None else time.monotonic() + float(seconds)

    def left(self) -> httpx.Timeout:
        """What is left, for each wait for the network.

        Raises:
            AnswerTimeoutError: If nothing is left.
        """
        self.check()
        deadline = self._deadline
        return self._patience.within(None if deadline is None else deadline - time.monotonic())

    def check(self) -> None:
        """Ends an answer whose time is up.

        Raises:
            AnswerTimeoutError: If it is.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise AnswerTimeoutError


class _Events:
    """Reads server-sent events; the last delta comes when the stream is complete."""

    def deltas(self, line: str) -> Generator[AnswerDelta]:
        """None or one delta of a line.

        Raises:
            RefragError: If the server says that it cannot go on.
        """
        if not line.startswith("data: ") or line == "data: [DONE]":
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise _error(event, 500)
        for choice in event["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            report = Report(**event["refrag"]) if "refrag" in event else None
            if text or report is not None:
                logprobs = read_logprobs(choice["logprobs"])
                yield AnswerDelta(text, choice["finish_reason"], report, logprobs)


def _answer(response: httpx.Response) -> Answer:
    _check(response)
    body = response.json()
    (choice,) = body["choices"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    report = Report(**body["refrag"])
    return Answer(text, choice["finish_reason"], report, read_logprobs(choice["logprobs"]))


def _check(response: httpx.Response) -> None:
    """Refuses answers that are errors.

    Raises:
        RefragError: As the server says.
    """
    if response.is_error:
        try:
            body = response.json()
        except ValueError:
            body = {}
        raise _error(body, response.status_code)


def _error(body: object, status: int) -> RefragError:
    about = body.get("error") if isinstance(body, Mapping) else None
    about = about if isinstance(about, Mapping) else {}
    hint = "; base_url ends in /v1" if status == 404 and not about else ""
    message = f"the server answered {status}: {about.get('message', 'without a reason')}{hint}"
    if about.get("code") == "context_length_exceeded":
        return ContextWindowError(str(about["message"]))
    return ServerError(message)
