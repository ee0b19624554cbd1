"""Clients that go, come in crowds or ask for too long; each by hand, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from refrag_components.engines import TransformersEngine
from refrag_components.generation.generator import RefragGenerator
from refrag_components.serving.app import create_app
from refrag_components.serving.limits import Limits
from tests.engines.steps import Steps
from tests.serving.conftest import LIMITS, NAME, TOKEN

ASKED = {"model": NAME, "messages": [{"role": "user", "content": "What?"}], "max_tokens": 300}


class Connection:
    """One client's connection to an ASGI application."""

    def __init__(self, app: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        self.sent: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        headers = [
            (b"authorization", f"Bearer {TOKEN}".encode()),
            (b"content-type", b"application/json"),
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": headers,
            "client": ("client", 1),
            "server": ("server", 80),
        }
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._changed:
            self.sent.append(message)
            self._changed.notify_all()

    async def received(self, count: int) -> None:
        """Returns when the server has sent so many messages."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)

    def close(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})


@pytest.fixture
def steps(generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch) -> Steps:
    assert isinstance(generator.engine, TransformersEngine)
    return Steps(generator.engine, monkeypatch)


async def figures(http: Any) -> str:
    return str((await http.get("http://server/metrics")).text)


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_decoded_for_a_client_that_has_gone(
    app: Any, http: Any, client: AsyncOpenAI, steps: Steps, stream: bool
) -> None:
    steps.hold(until=1)
    steps.allow(3)
    connection = Connection(app, {**ASKED, "stream": stream})
    await asyncio.to_thread(steps.wait, 3)
    if stream:
        await connection.received(2)
    connection.close()
    await connection.task
    steps.hold(until=0)
    steps.allow(None)
    answer = await client.chat.completions.create(**{**ASKED, "max_tokens": 2})
    assert answer.usage is not None
    assert len(steps.sizes) <= 3
    assert 'refrag_requests_total{outcome="gone"} 1.0' in await figures(http)


async def test_a_crowd_is_answered_or_sent_away(
    app: Any, http: Any, client: AsyncOpenAI, steps: Steps
) -> None:
    """Four are answered, four wait, and the others are told so at once."""
    steps.hold(until=1)
    steps.allow(0)
    ask = {**ASKED, "max_tokens": 3}
    tasks = [asyncio.create_task(client.chat.completions.create(**ask)) for _ in range(12)]
    refused = LIMITS.running + LIMITS.waiting
    done: set[Any] = set()
    while len(done) < 12 - refused:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks = [task for task in tasks if task not in done] + list(done)
        done = {task for task in tasks if task.done()}
    assert all(isinstance(task.exception(), openai.RateLimitError) for task in done)
    text = await figures(http)
    assert "refrag_running 4.0" in text
    assert "refrag_waiting 4.0" in text
    steps.allow(None)
    answers = await asyncio.gather(*(task for task in tasks if task not in done))
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    text = await figures(http)
    assert "refrag_running 0.0" in text
    assert 'refrag_requests_total{outcome="answered"} 8.0' in text
    assert 'refrag_requests_total{outcome="refused"} 4.0' in text
    assert "refrag_time_to_first_token_seconds_count 8.0" in text


async def test_time_is_limited(generator: RefragGenerator, steps: Steps) -> None:
    """Whatever the limit is, an answer that does not go on is ended by it."""
    app = create_app(generator, name=NAME, limits=Limits(seconds=0.05))
    steps.hold(until=1)
    steps.allow(0)
    whole = Connection(app, ASKED)
    await whole.task
    assert whole.sent[0]["status"] == 504
    steps.allow(None)


async def test_an_error_in_the_middle_of_a_stream_is_an_event(
    app: Any, generator: RefragGenerator, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.hold(until=1)
    steps.allow(2)
    connection = Connection(app, {**ASKED, "stream": True})
    await connection.received(2)

    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("refrag_components.engines.lanes._sample", fail)
    steps.allow(None)
    await connection.task
    text = b"".join(message.get("body", b"") for message in connection.sent).decode()
    assert '"server_error"' in text
    assert "secret" not in text
    assert "[DONE]" not in text


async def test_a_store_that_fails_costs_time_only(
    client: AsyncOpenAI, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(generator.store, "mget", fail)
    answer = await client.chat.completions.create(
        **ASKED | {"max_tokens": 2}, extra_body={"documents": ["The harbour was dug in 1907."]}
    )
    assert "no such host" in (answer.model_extra or {})["refrag"]["warnings"][0]
