"""A server in this process, and OpenAI's own client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from refrag_components.generation.generator import RefragGenerator
from refrag_components.modeling import RefragModel
from refrag_components.serving.app import create_app
from refrag_components.serving.limits import Limits

NAME = "tiny"
TOKEN = "a-token"
LIMITS = Limits(body_bytes=200_000, passages=8, running=4, waiting=4, seconds=600)


@pytest.fixture
def generator(tiny_model: RefragModel) -> RefragGenerator:
    return RefragGenerator(tiny_model)


@pytest.fixture
def app(generator: RefragGenerator) -> Any:
    return create_app(generator, name=NAME, tokens=[TOKEN], limits=LIMITS)


@pytest.fixture
async def http(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://server/v1/", headers=headers
    ) as client:
        yield client


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://server/v1", api_key=TOKEN, http_client=http, max_retries=0
    )
