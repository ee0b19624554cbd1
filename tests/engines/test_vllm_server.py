"""Completions by prompt embeddings from a stand-in for vLLM's server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import Request

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import (
    ContextWindowError,
    EngineError,
    SamplingError,
    ServerError,
    StructuredOutputError,
)
from refrag_components.modeling import RefragModel
from tests.engines.contract import same
from tests.engines.fake_vllm import greedy
from tests.engines.layouts import every_other, prompt
from tests.serving.running import running
from tests.tiny import TEXT

GREEDY = SamplingParams(max_tokens=12)
WINDOW = 300

Bodies = list[dict[str, Any]]


def stand_in(decoder: Any) -> tuple[FastAPI, Bodies]:
    """A server of completions by prompt embeddings, and the requests that it gets."""
    app = FastAPI()
    asked: Bodies = []

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": "a-decoder", "max_model_len": WINDOW}]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        body = await request.json()
        asked.append(body)
        if request.headers.get("authorization") != "Bearer a-key":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if body["model"] != "a-decoder":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        tokens = greedy(decoder, embeds[None], body["max_tokens"])
        if not body.get("stream"):
            ((token, logprob),) = tokens
            choice = {"token_ids": [token], "logprobs": {"token_logprobs": [logprob]}}
            return {"choices": [choice]}

        def events() -> Any:
            for token, _ in tokens:
                yield f"data: {json.dumps({'choices': [{'token_ids': [token]}]})}\n\n"
                if token in body["stop_token_ids"]:
                    break
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app, asked


@pytest.fixture
def layouts(layered_model: RefragModel) -> list[Layout]:
    """Prompts of different lengths: plain, compressed, mixed, and without any passage."""
    return [
        prompt(layered_model, TEXT[:3], True, "Answer:"),
        prompt(layered_model, TEXT[:4], False, "What rose?"),
        prompt(layered_model, TEXT[2:], every_other, "What fell?"),
        prompt(layered_model, [], True, "What?"),
    ]


@pytest.fixture
def served(layered_model: RefragModel) -> Iterator[tuple[str, Bodies]]:
    app, asked = stand_in(layered_model.decoder)
    with running(app) as url:
        yield url, asked


@pytest.fixture
def engine(layered_model: RefragModel, served: tuple[str, Bodies]) -> Iterator[VllmEngine]:
    engine = VllmEngine(layered_model, base_url=served[0], api_key="a-key")
    yield engine
    engine.close()


def test_answers_are_the_default_engines(
    layered_model: RefragModel,
    engine: VllmEngine,
    served: tuple[str, Bodies],
    layouts: list[Layout],
) -> None:
    params = SamplingParams(max_tokens=12, stop=["e", "a"])
    default = TransformersEngine(layered_model)
    for each in (GREEDY, params):
        assert all(map(same, engine.generate(layouts, each), default.generate(layouts, each)))
    body = served[1][-1]
    assert body["cache_salt"] == served[1][-2]["cache_salt"]
    assert body["ignore_eos"] is True
    assert body["stop_token_ids"] == [1, 2]
    assert "stop" not in body


def test_its_window_counts(engine: VllmEngine) -> None:
    layout = Layout((TextSegment(np.full(WINDOW - 2, 20)),))
    assert len(engine.generate([layout], GREEDY)[0].token_ids) <= 2
    with pytest.raises(ContextWindowError):
        engine.generate([Layout((TextSegment(np.full(WINDOW, 20)),))], GREEDY)


def test_what_it_cannot_do(engine: VllmEngine, layouts: list[Layout]) -> None:
    with pytest.raises(SamplingError, match="repetition_penalty"):
        engine.generate(layouts, SamplingParams(repetition_penalty=1.1))
    schema = AnswerSchema.of({"type": "array"}, prefix="[")
    with pytest.raises(StructuredOutputError):
        engine.generate(layouts, SamplingParams(answer_schema=schema))


def test_a_key_that_is_wrong(layered_model: RefragModel, served: tuple[str, Bodies]) -> None:
    with pytest.raises(ServerError, match=r"401: Unauthorized.*VLLM_API_KEY"):
        VllmEngine(layered_model, base_url=served[0])


def test_nobody_at_the_address(layered_model: RefragModel) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        VllmEngine(layered_model, base_url="http://127.0.0.1:9/v1")


def test_options_are_the_servers(layered_model: RefragModel) -> None:
    with pytest.raises(EngineError, match="start the server with them"):
        VllmEngine(layered_model, base_url="http://127.0.0.1:9/v1", options={"dtype": "half"})
