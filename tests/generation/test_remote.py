"""The client of a server: what it sends, and what it makes of answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import httpx
import pytest

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.exceptions import AnswerTimeoutError, ContextWindowError, ServerError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.patience import Patience
from refrag_components.generation.remote import RemoteGenerator
from refrag_components.generation.remote_request import RemoteRequest, _sampling
from refrag_components.generation.requests import Answer, Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget, PositionBudget
from refrag_components.prompts.parts import Message, PassagePart, TextPart, ToolCall
from refrag_components.prompts.rendering import render
from refrag_components.serving.app import create_app
from refrag_components.serving.bodies import CompletionBody
from refrag_components.serving.limits import Limits
from refrag_components.serving.prompts import sampling_params
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.engines.steps import Steps
from tests.serving.running import running
from tests.tiny import TEXT

PARAMS = SamplingParams(max_tokens=10)
PASSAGES = tuple(PassagePart(text) for text in TEXT[:3])
ASKING = Message("user", (*PASSAGES, TextPart("\nWhat rose?")))


@pytest.fixture
def generator(tiny_model: RefragModel) -> RefragGenerator:
    """The server's."""
    return RefragGenerator(tiny_model)


@pytest.fixture
def url(generator: RefragGenerator) -> Iterator[str]:
    app = create_app(generator, name="tiny", tokens=["secret"], limits=Limits(passages=4))
    with running(app) as url:
        yield url


@pytest.fixture
def remote(url: str) -> RemoteGenerator:
    return RemoteGenerator(url, "tiny", "secret")


def ask(*messages: Message, **options: Any) -> RemoteRequest:
    settings: dict[str, Any] = {"policy": "similarity", "budget": FractionBudget(0.25)} | options
    return RemoteRequest(messages or (ASKING,), "What rose?", **settings)


def in_process(generator: RefragGenerator, request: RemoteRequest) -> Answer:
    parts: Any = request.messages[0].parts
    if request.is_chat:
        parts = render(request.messages, generator.model.tokenizer)
    own = Request(parts, request.question, request.policy, request.budget, request.rest)
    return timeless(generator.generate([own], PARAMS)[0])


def timeless(answer: Answer) -> Answer:
    return replace(answer, report=replace(answer.report, time_to_first_token=None))


CONVERSATIONS = [
    ask(),
    ask(budget=PositionBudget(60), policy="none", rest="compress"),
    ask(is_chat=False),
    ask(rest="compress"),
    ask(
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("What fell?"),)),
        Message("assistant", (), (ToolCall("look", {"at": "rain"}),)),
        Message("tool", PASSAGES[2:], tool="look"),
        ASKING,
    ),
]


@pytest.mark.parametrize("request_", CONVERSATIONS)
async def test_answers_are_those_in_process(
    remote: RemoteGenerator, generator: RefragGenerator, request_: RemoteRequest
) -> None:
    in_process(generator, request_)  # what is encoded now is found in the store from here on
    expected = in_process(generator, request_)
    assert timeless(remote.generate([request_], PARAMS)[0]) == expected
    assert timeless(await remote.agenerate(request_, PARAMS)) == expected
    streamed = list(remote.stream(request_, PARAMS))
    awaited = [delta async for delta in await remote.astream(request_, PARAMS)]
    for deltas in (streamed, awaited):
        assert "".join(delta.text for delta in deltas) == expected.text
        assert [delta.report for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert deltas[-1].finish_reason == expected.finish_reason
        assert deltas[-1].report is not None
        assert deltas[-1].report.output_tokens == expected.report.output_tokens


def test_how_an_answer_is_drawn_arrives_whole() -> None:
    params = SamplingParams(
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        repetition_penalty=1.2,
        stop=("x", "y"),
        seed=7,
        reproducible=True,
    )
    default = SamplingParams()
    names = [field.name for field in fields(params)]
    alike = [name for name in names if getattr(params, name) == getattr(default, name)]
    # Schemas and probabilities have tests of their own; time and parser stay with the caller.
    assert alike == ["answer_schema", "skip_special_tokens", "top_logprobs", "timeout"]
    body = CompletionBody(model="tiny", prompt="?", **_sampling(params))
    assert sampling_params(body) == params


def test_many_requests_of_one_call_keep_their_order(
    remote: RemoteGenerator, generator: RefragGenerator
) -> None:
    requests = [ask(Message("user", (PASSAGES[i % 3], TextPart(f"Say {i}")))) for i in range(6)]
    answers = remote.generate(requests, PARAMS)
    assert [answer.text for answer in answers] == [
        in_process(generator, request).text for request in requests
    ]


def test_vectors_of_a_store_go_along(
    remote: RemoteGenerator, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the passage's own store or the request's; the server then encodes nothing."""
    model = generator.model
    own, default = MemoryStore(), MemoryStore()
    for text, store in zip(TEXT[:2], (own, default), strict=True):
        key = passage_key(text, model.fingerprint)
        store.mset([(key, model.encode_passages([text])[0])])
    message = Message(
        "user", (PassagePart(TEXT[0], own), PassagePart(TEXT[1]), TextPart("\nWhat rose?"))
    )
    monkeypatch.setattr(model, "encode_passages", None)
    (answer,) = remote.generate([ask(message, store=default)], PARAMS)
    assert answer.report.cache_hits == 2


@pytest.mark.parametrize("is_chat", [True, False])
async def test_likelihoods(
    remote: RemoteGenerator, generator: RefragGenerator, is_chat: bool
) -> None:
    request, asked = ask(is_chat=is_chat), replace(PARAMS, top_logprobs=2)
    parts: Any = request.messages[0].parts
    if is_chat:
        parts = render(request.messages, generator.model.tokenizer)
    own = Request(parts, request.question, request.policy, request.budget)
    expected = generator.generate([own], asked)[0].logprobs
    assert len(expected) > 3
    streamed = [told for delta in remote.stream(request, asked) for told in delta.logprobs]
    deltas = [delta async for delta in await remote.astream(request, asked)]
    for logprobs in (
        remote.generate([request], asked)[0].logprobs,
        (await remote.agenerate(request, asked)).logprobs,
        streamed,
        [told for delta in deltas for told in delta.logprobs],
    ):
        assert [told.token for told in logprobs] == [told.token for told in expected]
        assert [told.logprob for told in logprobs] == pytest.approx(
            [told.logprob for told in expected], abs=1e-4
        )
        if is_chat:
            assert [[t for t, _ in told.top] for told in logprobs] == [
                [t for t, _ in told.top] for told in expected
            ]


@pytest.mark.parametrize("is_chat", [True, False])
async def test_likelihoods_that_nobody_asks_for(remote: RemoteGenerator, is_chat: bool) -> None:
    assert remote.generate([ask(is_chat=is_chat)], PARAMS)[0].logprobs == ()


async def test_time_is_limited(
    remote: RemoteGenerator, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote.served
    assert isinstance(generator.engine, TransformersEngine)
    steps = Steps(generator.engine, monkeypatch)
    steps.hold(until=1)
    steps.allow(1)
    late = replace(PARAMS, timeout=0.2)
    with pytest.raises(AnswerTimeoutError):
        remote.generate([ask()], late)
    with pytest.raises(AnswerTimeoutError):
        list(remote.stream(ask(), late))
    with pytest.raises(AnswerTimeoutError):
        await remote.agenerate(ask(), late)
    with pytest.raises(AnswerTimeoutError):
        async for _ in await remote.astream(ask(), late):
            pass
    with pytest.raises(AnswerTimeoutError):
        remote.generate([ask()], replace(late, timeout=1e-9))
    steps.allow(None)
    assert remote.generate([ask()], replace(late, timeout=600)) != []


async def test_a_server_may_be_silent_for_so_long(
    url: str, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteGenerator(url, "tiny", "secret", Patience(read=0.2))
    assert remote.served
    assert isinstance(generator.engine, TransformersEngine)
    steps = Steps(generator.engine, monkeypatch)
    steps.hold(until=1)
    steps.allow(1)
    silent = "sent nothing for 0.2 s; .*max_tokens.*read_timeout"
    with pytest.raises(ServerError, match=silent):
        remote.generate([ask()], PARAMS)
    with pytest.raises(ServerError, match=silent):
        list(remote.stream(ask(), PARAMS))
    with pytest.raises(ServerError, match=silent):
        await remote.agenerate(ask(), PARAMS)
    with pytest.raises(ServerError, match=silent):
        async for _ in await remote.astream(ask(), PARAMS):
            pass
    with pytest.raises(AnswerTimeoutError):
        remote.generate([ask()], replace(PARAMS, timeout=0.1))
    steps.allow(None)


def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"http://127.0.0.1:{there.getsockname()[1]}/v1"
        remote = RemoteGenerator(url, "tiny", patience=Patience(connect=0.2))
        with pytest.raises(ServerError, match=r"within 0.2 s; .*refrag serve.*connect_timeout"):
            remote.generate([ask()], PARAMS)


def test_what_is_not_this_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match=r"404.*base_url ends in /v1"):
        RemoteGenerator(url.removesuffix("/v1"), "tiny", "secret").generate([ask()], PARAMS)
    for odd in ("http://gpu:port/v1", "http://\ud800/v1"):
        with pytest.raises(ServerError, match=r"base_url must be a URL such as"):
            RemoteGenerator(odd, "tiny")
    with pytest.raises(ServerError, match="refrag serve"):
        RemoteGenerator("gpu:8000/v1", "tiny").generate([ask()], PARAMS)
    for page in ("<html>", "[]", '{"data": 3}'):
        response = httpx.Response(200, text=page)
        monkeypatch.setattr(httpx.Client, "get", lambda *_, got=response, **__: got)
        with pytest.raises(ServerError, match="is not a server of models; set base_url"):
            RemoteGenerator(url, "tiny").generate([ask()], PARAMS)


def test_a_store_that_fails_sends_the_text(
    remote: RemoteGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()

    def fail(keys: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(store, "mget", fail)
    (answer,) = remote.generate([ask(store=store)], PARAMS)
    assert answer.report.cache_misses == 3


async def test_errors_say_what_the_server_says(remote: RemoteGenerator, url: str) -> None:
    words = Message("user", (PassagePart("word " * 9000), TextPart("What?")))
    long = ask(words, rest="compress")
    many = ask(Message("user", (*PASSAGES, *PASSAGES, TextPart("What?"))))
    for request, error, reason in (
        (long, ContextWindowError, "retrieve fewer"),
        (many, ServerError, "at most 4"),
    ):
        with pytest.raises(error, match=reason):
            remote.generate([request], PARAMS)
        with pytest.raises(error, match=reason):
            list(remote.stream(request, PARAMS))
        with pytest.raises(error, match=reason):
            await remote.agenerate(request, PARAMS)
        with pytest.raises(error, match=reason):
            async for _ in await remote.astream(request, PARAMS):
                pass
    with pytest.raises(ServerError, match="api_key"):
        RemoteGenerator(url, "tiny", "wrong").generate([ask()], PARAMS)
    with pytest.raises(ServerError, match="it serves tiny"):
        RemoteGenerator(url, "other", "secret").generate([ask()], PARAMS)
    with pytest.raises(ServerError, match="refrag serve"):
        RemoteGenerator("http://127.0.0.1:9/v1", "tiny").generate([ask()], PARAMS)


@pytest.mark.parametrize("way", ["stream", "agenerate", "astream"])
async def test_who_goes_away_is_not_decoded_for(
    remote: RemoteGenerator,
    generator: RefragGenerator,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    assert isinstance(generator.engine, TransformersEngine)
    steps = Steps(generator.engine, monkeypatch)
    steps.hold(until=1)
    steps.allow(3)
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    withdraw = "refrag_components.engines.row.Row.withdraw"

    def withdrawn(row: Any) -> None:
        row.ended = True
        loop.call_soon_threadsafe(left.set)

    monkeypatch.setattr(withdraw, withdrawn)
    params = SamplingParams(max_tokens=300)

    async def read() -> None:
        if way == "agenerate":
            await remote.agenerate(ask(), params)
        else:
            async for _ in await remote.astream(ask(), params):
                pass

    if way == "stream":
        stream = remote.stream(ask(), params)
        await asyncio.to_thread(next, stream)
        stream.close()
    else:
        task = asyncio.create_task(read())
        await asyncio.to_thread(steps.wait, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.wait_for(left.wait(), 300)
    steps.allow(None)


def test_a_server_that_ends_finishes_what_it_has_begun(
    generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = in_process(generator, ask())
    assert isinstance(generator.engine, TransformersEngine)
    steps = Steps(generator.engine, monkeypatch)
    steps.hold(until=1)
    steps.allow(2)
    with (
        ThreadPoolExecutor(1) as pool,
        running(create_app(generator, name="tiny"), lambda: steps.allow(None)) as url,
    ):
        answering = pool.submit(RemoteGenerator(url, "tiny").generate, [ask()], PARAMS)
        steps.wait(2)
    assert answering.result(60)[0].text == expected.text
