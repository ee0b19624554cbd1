"""The server's routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from refrag_components.engines.base import TokenLogprob
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import ContextWindowError, MissingExtraError, RefragError
from refrag_components.generation.openai_logprobs import written_for_chat, written_for_prompt
from refrag_components.generation.report import Report
from refrag_components.generation.requests import Answer, AnswerDelta, Request, whole_answer
from refrag_components.serving.admission import Admission, CrowdedError
from refrag_components.serving.bodies import ChatBody, CompletionBody
from refrag_components.serving.gate import Gate, error_body
from refrag_components.serving.limits import Limits
from refrag_components.serving.metrics import Metrics
from refrag_components.serving.prompts import PromptReader, sampling_params
from refrag_components.serving.streams import ClientGoneError, EventStream, while_connected
from refrag_components.serving.usage import o200k_counter, usage

if TYPE_CHECKING:
    from refrag_components.generation.generator import RefragGenerator

try:
    from fastapi import FastAPI
    from fastapi import Request as HttpRequest
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse, Response
except ImportError as error:
    msg = "the server needs more packages; pip install 'refrag-components[serve]'"
    raise MissingExtraError(msg) from error

__all__ = ["create_app"]

logger = logging.getLogger(__name__)


def create_app(
    generator: RefragGenerator,
    *,
    name: str,
    tokens: Collection[str] = (),
    limits: Limits | None = None,
) -> FastAPI:
    """An ASGI application that answers with a generator, by OpenAI's protocol.

    Routes: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health`` (open to
    everybody) and ``/metrics``.

    Args:
        generator: Answers.
        name: The model's name.
        tokens: Bearer tokens of clients; without any, everybody may ask.
        limits: What it allows.

    Raises:
        MissingExtraError: If the extra is not installed, when this module is imported.
    """
    limits = limits or Limits()
    server = _Server(generator, name, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        # A store that does not answer must not take the threads of all other requests.
        threads = ThreadPoolExecutor(limits.running, thread_name_prefix="refrag-request")
        asyncio.get_running_loop().set_default_executor(threads)
        yield

    app = FastAPI(title="refrag serve", lifespan=lifespan)
    app.add_api_route("/v1/chat/completions", server.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", server.complete, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", server.models)
    app.add_api_route("/health", server.health)
    app.add_api_route("/metrics", server.metrics, response_class=PlainTextResponse)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Gate, tokens=tokens, body_bytes=limits.body_bytes)
    return app


@dataclass(frozen=True)
class _Job:
    """A request that has been read.

    Attributes:
        request: For the generator.
        params: How the answer is drawn.
        warnings: About passages.
    """

    request: Request
    params: SamplingParams
    warnings: Sequence[str]


@dataclass(frozen=True)
class _Form:
    """How an endpoint writes answers.

    Attributes:
        kind: "chat.completion" or "text_completion".
        id: Of this answer.
        model: Name of the model.
    """

    kind: str
    id: str
    model: str

    @property
    def is_chat(self) -> bool:
        return self.kind == "chat.completion"

    def whole(self, answer: Answer, used: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        said = {"role": "assistant", "content": answer.text}
        text: dict[str, Any] = {"message": said} if self.is_chat else {"text": answer.text}
        logprobs = self._logprobs(answer.logprobs, 0)
        choice = {"index": 0, **text, "logprobs": logprobs, "finish_reason": answer.finish_reason}
        return self._with(self.kind, [choice], usage=used, refrag=report)

    def beginning(self) -> dict[str, Any]:
        """The first part of a chat's stream, which names the role."""
        return self._part({"delta": {"role": "assistant", "content": ""}}, None, None)

    def part(self, delta: AnswerDelta, offset: int) -> dict[str, Any]:
        """A part of a stream, whose tokens begin after so many characters."""
        text = {"content": delta.text}
        said: dict[str, Any] = {"delta": text} if self.is_chat else {"text": delta.text}
        return self._part(said, self._logprobs(delta.logprobs, offset), delta.finish_reason)

    def _part(
        self, said: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        kind = f"{self.kind}.chunk" if self.is_chat else self.kind
        choice = {"index": 0, **said, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._with(kind, [choice])

    def _logprobs(self, told: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        if not told:
            return None
        return written_for_chat(told) if self.is_chat else written_for_prompt(told, offset)

    def totals(self, used: dict[str, Any]) -> dict[str, Any]:
        kind = f"{self.kind}.chunk" if self.is_chat else self.kind
        return self._with(kind, [], usage=used)

    def _with(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        about = {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}
        return {**about, "choices": choices, **more}


class _Server:
    def __init__(self, generator: RefragGenerator, name: str, limits: Limits) -> None:
        self._generator = generator
        self._name = name
        self._limits = limits
        self._reader = PromptReader(generator, limits.passages)
        self._admission = Admission(limits.running, limits.waiting)
        self._metrics = Metrics(self._admission)
        self._counter = o200k_counter()

    async def chat(self, body: ChatBody, http: HttpRequest) -> Response | EventStream:
        """Answers a conversation."""
        form = _Form("chat.completion", f"chatcmpl-{uuid.uuid4().hex}", self._name)
        return await self._answer(body, http, form, lambda: self._reader.chat(body))

    async def complete(self, body: CompletionBody, http: HttpRequest) -> Response | EventStream:
        """Continues a prompt."""
        form = _Form("text_completion", f"cmpl-{uuid.uuid4().hex}", self._name)
        return await self._answer(body, http, form, lambda: self._reader.completion(body))

    async def models(self) -> dict[str, Any]:
        """The model, and what its chunk vectors have to be."""
        model = self._generator.model
        about = {
            "fingerprint": model.fingerprint,
            "chunk_size": model.config.chunk_size,
            "width": model.vector_width,
            "window": self._generator.window,
        }
        entry = {"id": self._name, "object": "model", "created": 0, "owned_by": "refrag"}
        return {"object": "list", "data": [{**entry, "refrag": about}]}

    async def health(self) -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    async def metrics(self) -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(self._metrics.text())

    async def _answer(
        self,
        body: ChatBody | CompletionBody,
        http: HttpRequest,
        form: _Form,
        read: Callable[[], tuple[Request, Sequence[str]]],
    ) -> Response | EventStream:
        if body.model != self._name:
            message = f"this server runs {self._name!r}, not {body.model!r}"
            return self._refused(404, message, "model_not_found")
        client = http.headers.get("authorization") or (http.client.host if http.client else "")
        deltas = self._deltas(client, read, body)
        try:
            if not body.stream:
                return await while_connected(http.receive, self._whole(deltas, form))
            # Errors of the request have a status only before the stream begins.
            first = await while_connected(http.receive, anext(deltas))
        except Exception as error:
            await deltas.aclose()
            return self._error(error)
        return EventStream(self._events(first, deltas, form, body))

    async def _deltas(
        self,
        client: str,
        read: Callable[[], tuple[Request, Sequence[str]]],
        body: ChatBody | CompletionBody,
    ) -> AsyncGenerator[tuple[_Job, AnswerDelta]]:
        """The answer, as soon as there is a slot for it; ends in any case when time is up."""
        events: asyncio.Queue[tuple[_Job, AnswerDelta] | Exception] = asyncio.Queue()
        # A task of its own, because time limits belong to one task, and generators may be read by
        # several.
        making = asyncio.create_task(self._make(client, read, body, events.put_nowait))
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if event[1].report is not None:
                    return
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _make(
        self,
        client: str,
        read: Callable[[], tuple[Request, Sequence[str]]],
        body: ChatBody | CompletionBody,
        tell: Callable[[tuple[_Job, AnswerDelta] | Exception], None],
    ) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.seconds), self._admission.slot(client):
                request, warnings = await asyncio.to_thread(read)
                engine = self._generator.engine
                if isinstance(engine, VllmEngine):
                    request = replace(request, engine=engine.for_tenant(client))
                job = _Job(request, sampling_params(body), warnings)
                waited = time.perf_counter() - started
                async with aclosing(await self._generator.astream(request, job.params)) as deltas:
                    async for delta in deltas:
                        if delta.report is not None:
                            self._metrics.answered(delta.report, waited)
                        tell((job, delta))
        except Exception as error:
            tell(error)

    async def _whole(
        self, deltas: AsyncGenerator[tuple[_Job, AnswerDelta]], form: _Form
    ) -> JSONResponse:
        parts: list[AnswerDelta] = []
        async with aclosing(deltas):
            async for event in deltas:
                parts.append(event[1])
        answer = whole_answer(parts)
        used, report = self._totals(event[0], answer.text, answer.report)
        return JSONResponse(form.whole(answer, used, report))

    async def _events(
        self,
        first: tuple[_Job, AnswerDelta],
        deltas: AsyncGenerator[tuple[_Job, AnswerDelta]],
        form: _Form,
        body: ChatBody | CompletionBody,
    ) -> AsyncGenerator[str]:
        async with aclosing(deltas):
            try:
                if form.is_chat:
                    yield json.dumps(form.beginning())
                job, delta = first
                text = ""
                n_told = 0  # characters of the tokens whose log probabilities were sent
                while delta.report is None:
                    text += delta.text
                    yield json.dumps(form.part(delta, n_told))
                    n_told += sum(len(told.token) for told in delta.logprobs)
                    job, delta = await anext(deltas)
                used, report = self._totals(job, text + delta.text, delta.report)
                yield json.dumps({**form.part(delta, n_told), "refrag": report})
                if body.stream_options is not None and body.stream_options.include_usage:
                    yield json.dumps(form.totals(used))
                yield "[DONE]"
            except asyncio.CancelledError:
                self._metrics.ended("gone")
                raise
            except Exception as error:
                status, message, code, outcome = _described(error)
                self._metrics.ended(outcome)
                yield json.dumps(error_body(message, _kind(status), code))

    def _totals(
        self, job: _Job, text: str, report: Report
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        used = usage(report, job.request.parts, text, self._counter)
        return used, report.preceded_by(job.warnings).to_dict()

    def _error(self, error: Exception) -> Response:
        status, message, code, outcome = _described(error)
        return self._refused(status, message, code, outcome)

    def _refused(
        self, status: int, message: str, code: str | None, outcome: str = "refused"
    ) -> JSONResponse:
        self._metrics.ended(outcome)
        return JSONResponse(error_body(message, _kind(status), code), status)


def _described(error: Exception) -> tuple[int, str, str | None, str]:
    """Status, message, code and outcome of a request that ended with an error."""
    if isinstance(error, ContextWindowError):
        return 400, str(error), "context_length_exceeded", "refused"
    if isinstance(error, RefragError) and isinstance(error, ValueError):
        return 400, str(error), None, "refused"
    if isinstance(error, CrowdedError):
        return 429, "too many requests wait already; try again later", "crowded", "refused"
    if isinstance(error, TimeoutError):
        return 504, "the time for a request is up; ask for a shorter answer", "late", "late"
    if isinstance(error, ClientGoneError):
        return 499, "the client has gone", None, "gone"
    logger.error("a request failed", exc_info=error)
    return 500, "the server could not answer; its log says why", None, "failed"


def _kind(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


async def _invalid(http: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        f"{'.'.join(str(step) for step in fault['loc'][1:])}: {fault['msg']}"
        for fault in error.errors()[:5]
    ]
    return JSONResponse(error_body("; ".join(faults), "invalid_request_error"), 400)
