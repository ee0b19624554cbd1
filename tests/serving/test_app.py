"""The server, by OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Answer, Request
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import Message, PassagePart, TextPart
from refrag_components.prompts.rendering import render
from refrag_components.serving.app import create_app
from refrag_components.vectors import ChunkVectors, passage_key
from refrag_components.vectors.transfer import to_transfer
from tests.serving.conftest import LIMITS, NAME, TOKEN
from tests.tiny import TEXT

QUESTION = "What rose?"


class Empty:
    content = None


def passage(text: str, **refrag: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "refrag": refrag}


def content(*passages: dict[str, Any]) -> list[dict[str, Any]]:
    return [*passages, {"type": "text", "text": f"\n{QUESTION}"}]


def chat(*passages: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Keywords of a request for an answer from passages."""
    message = {"role": "user", "content": content(*passages)}
    extra = {"budget": options.pop("budget", 0.25)}
    return {
        "model": NAME,
        "messages": [message],
        "max_tokens": 12,
        "extra_body": extra | options.pop("extra", {}),
        **options,
    }


def in_process(generator: RefragGenerator, *texts: str) -> Answer:
    parts = (*map(PassagePart, texts), TextPart(f"\n{QUESTION}"))
    request = Request(render([Message("user", parts)], generator.model.tokenizer), QUESTION)
    return generator.generate([request], SamplingParams(max_tokens=12))[0]


class TestAnswers:
    async def test_as_in_process(self, client: AsyncOpenAI, generator: RefragGenerator) -> None:
        expected = in_process(generator, *TEXT[:3])
        answer = await client.chat.completions.create(**chat(*map(passage, TEXT[:3])))
        assert answer.choices[0].message.content == expected.text
        assert answer.choices[0].finish_reason == expected.finish_reason
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == expected.report.positions
        assert answer.usage.completion_tokens == expected.report.output_tokens
        refrag = (answer.model_extra or {})["refrag"]
        assert refrag["context_positions"] < refrag["context_tokens"]
        assert refrag["cache_hits"] == 3

    async def test_streams(self, client: AsyncOpenAI, generator: RefragGenerator) -> None:
        expected = in_process(generator, *TEXT[:3])
        stream = await client.chat.completions.create(
            **chat(*map(passage, TEXT[:3])), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(texts) == expected.text
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == expected.report.output_tokens

    async def test_documents_beside_the_prompt(
        self, client: AsyncOpenAI, generator: RefragGenerator
    ) -> None:
        answer = await client.chat.completions.create(
            **chat(extra={"documents": [TEXT[0], {"text": TEXT[1]}]})
        )
        assert (answer.model_extra or {})["refrag"]["cache_misses"] == 2

    @pytest.mark.parametrize("stream", [False, True])
    async def test_completions(self, client: AsyncOpenAI, stream: bool) -> None:
        arguments = {"model": NAME, "prompt": "The harbour", "max_tokens": 6}
        whole = await client.completions.create(**arguments)
        if stream:
            parts = [
                chunk.choices[0].text
                async for chunk in await client.completions.create(**arguments, stream=True)
            ]
            assert "".join(parts) == whole.choices[0].text
        assert whole.usage is not None and whole.usage.completion_tokens <= 6

    @pytest.mark.parametrize("stream", [False, True])
    async def test_likelihoods_as_openais(self, client: AsyncOpenAI, stream: bool) -> None:
        asked = chat(passage(TEXT[0]), logprobs=True, top_logprobs=2)
        if stream:
            chunks = [c async for c in await client.chat.completions.create(**asked, stream=True)]
            told = [t for c in chunks for t in (c.choices[0].logprobs or Empty).content or ()]
            text = "".join(c.choices[0].delta.content or "" for c in chunks)
        else:
            choice = (await client.chat.completions.create(**asked)).choices[0]
            assert choice.logprobs is not None
            told, text = choice.logprobs.content or [], choice.message.content or ""
        assert text and "".join(each.token for each in told).startswith(text.split("\ufffd")[0])
        for each in told:
            best, second = each.top_logprobs
            assert best.logprob >= second.logprob
            assert each == each.model_copy(update=best.model_dump())  # nothing is drawn
            assert each.bytes == (None if "\ufffd" in each.token else [*each.token.encode()])

    @pytest.mark.parametrize("stream", [False, True])
    async def test_likelihoods_of_completions(self, client: AsyncOpenAI, stream: bool) -> None:
        asked = {"model": NAME, "prompt": "The harbour", "max_tokens": 6, "logprobs": 1}
        if stream:
            chunks = [c async for c in await client.completions.create(**asked, stream=True)]
            told = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
        else:
            whole = (await client.completions.create(**asked)).choices[0].logprobs
            assert whole is not None
            told = [whole]
        tokens = [token for each in told for token in each.tokens or ()]
        offsets = [offset for each in told for offset in each.text_offset or ()]
        assert len(tokens) > 3
        assert offsets == [len("".join(tokens[:i])) for i in range(len(tokens))]
        for each in told:
            assert [[*top.values()] for top in each.top_logprobs or ()] == [
                [logprob] for logprob in each.token_logprobs or ()
            ]

    async def test_stop_ends_the_answer(self, client: AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(**chat(passage(TEXT[0])))
        text = whole.choices[0].message.content or ""
        answer = await client.chat.completions.create(**chat(passage(TEXT[0]), stop=[text[2:4]]))
        assert answer.choices[0].message.content == text[: text.index(text[2:4])]
        assert answer.choices[0].finish_reason == "stop"

    async def test_an_answer_fits_its_schema(self, client: AsyncOpenAI) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
        answer = await client.chat.completions.create(
            **chat(
                max_tokens=60,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": schema},
                },
            )
        )
        assert isinstance(json.loads(answer.choices[0].message.content or "")["n"], bool)

    async def test_models_say_what_vectors_have_to_be(
        self, client: AsyncOpenAI, tiny_model: RefragModel
    ) -> None:
        (model,) = [model async for model in await client.models.list()]
        assert model.id == NAME
        assert (model.model_extra or {})["refrag"] == {
            "fingerprint": tiny_model.fingerprint,
            "chunk_size": 4,
            "width": tiny_model.encoder.width,
            "window": tiny_model.window,
        }


class TestVectors:
    async def test_sent_vectors_are_read_and_not_kept(
        self, client: AsyncOpenAI, generator: RefragGenerator
    ) -> None:
        expected = in_process(RefragGenerator(generator.model), TEXT[0])
        (vectors,) = generator.model.encode_passages([TEXT[0]])
        arguments = chat(passage(TEXT[0], vectors=to_transfer(vectors)))
        answer = await client.chat.completions.create(**arguments)
        assert answer.choices[0].message.content == expected.text
        refrag = (answer.model_extra or {})["refrag"]
        assert (refrag["cache_hits"], refrag["cache_misses"]) == (1, 0)
        key = passage_key(TEXT[0], generator.model.fingerprint)
        assert generator.store.mget([key]) == [None]

    async def test_they_hold_what_policies_read(self, matched_model: RefragModel) -> None:
        generator = RefragGenerator(matched_model)
        expected = in_process(RefragGenerator(matched_model), TEXT[0])
        (vectors,) = matched_model.encode_passages([TEXT[0]])
        ends = ChunkVectors(vectors.vectors[:, 32:], vectors.token_ids, 4, vectors.fingerprint)
        app = create_app(generator, name=NAME, tokens=[TOKEN], limits=LIMITS)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://server/v1/",
            headers={"authorization": f"Bearer {TOKEN}"},
        ) as http:
            client = openai.AsyncOpenAI(
                base_url="http://server/v1", api_key=TOKEN, http_client=http, max_retries=0
            )
            (about,) = (await client.models.list()).data
            assert (about.model_extra or {})["refrag"]["width"] == vectors.width == 32 + 24
            sent = passage(TEXT[0], vectors=to_transfer(vectors))
            answer = await client.chat.completions.create(**chat(sent))
            assert answer.choices[0].message.content == expected.text
            assert (answer.model_extra or {})["refrag"]["cache_hits"] == 1
            sent = passage(TEXT[0], vectors=to_transfer(ends))
            with pytest.raises(openai.BadRequestError, match="model has width 56"):
                await client.chat.completions.create(**chat(sent))

    async def test_a_key_is_enough_where_the_store_is_shared(
        self, client: AsyncOpenAI, generator: RefragGenerator
    ) -> None:
        model = generator.model
        key = passage_key(TEXT[0], model.fingerprint)
        generator.store.mset([(key, model.encode_passages([TEXT[0]])[0])])
        answer = await client.chat.completions.create(**chat(passage(TEXT[0], key=key)))
        assert (answer.model_extra or {})["refrag"]["cache_hits"] == 1

    @pytest.mark.parametrize("case", ["fingerprint", "width", "chunk", "nan", "text", "noise"])
    async def test_what_is_not_of_this_model_is_refused(
        self, client: AsyncOpenAI, generator: RefragGenerator, case: str
    ) -> None:
        (good,) = generator.model.encode_passages([TEXT[0]])
        own = good.fingerprint
        sent = {
            "fingerprint": lambda: ChunkVectors(good.vectors, good.token_ids, 4, "f00d"),
            "width": lambda: ChunkVectors(good.vectors[:, :3], good.token_ids, 4, own),
            "chunk": lambda: ChunkVectors(good.vectors[:1], good.token_ids[:8], 8, own),
            "text": lambda: generator.model.encode_passages([TEXT[1]])[0],
        }
        if case in sent:
            vectors = to_transfer(sent[case]())
        elif case == "nan":
            vectors = _with_nan(good)
        else:
            vectors = "bm90IHRlbnNvcnM="
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**chat(passage(TEXT[0], vectors=vectors)))
        fix = {"fingerprint": "encode the passages", "width": "encode the passages"}
        fix |= {"chunk": "encode the passages", "text": "exactly this text"}
        assert fix.get(case, {"nan": "NaN", "noise": "safetensors"}.get(case, "")) in str(refused)
        assert await client.chat.completions.create(**chat(passage(TEXT[0])))

    async def test_a_foreign_key_is_refused(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="fingerprint"):
            await client.chat.completions.create(**chat(passage(TEXT[0], key="abc")))


def _with_nan(vectors: ChunkVectors) -> str:
    import base64

    from safetensors.numpy import save

    values = vectors.vectors.copy()
    values[0, 0] = np.nan
    about = {"chunk_size": "4", "fingerprint": vectors.fingerprint}
    return base64.b64encode(
        save({"vectors": values, "token_ids": vectors.token_ids}, metadata=about)
    ).decode()


class TestRefusing:
    async def test_without_a_token(self, http: httpx.AsyncClient) -> None:
        for header in ("", "Bearer wrong", "Basic a-token"):
            answer = await http.get("models", headers={"authorization": header})
            assert answer.status_code == 401
            assert "api_key" in answer.json()["error"]["message"]
        assert (await http.get("http://server/health", headers={"authorization": ""})).json() == {
            "status": "ok"
        }
        assert (
            await http.get("http://server/metrics", headers={"authorization": ""})
        ).status_code == 401

    async def test_what_it_offers_is_described_to_clients(self, http: httpx.AsyncClient) -> None:
        paths = (await http.get("http://server/openapi.json")).json()["paths"]
        assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= set(paths)
        refused = await http.get("http://server/openapi.json", headers={"authorization": ""})
        assert refused.status_code == 401

    async def test_an_unknown_model(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="this server runs 'tiny'"):
            await client.chat.completions.create(**chat() | {"model": "gpt-4o"})

    async def test_too_many_bytes(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.APIStatusError, match="200000 bytes") as refused:
            await client.chat.completions.create(**chat(passage("x" * 200_000)))
        assert refused.value.status_code == 413

    async def test_too_many_passages(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="at most 8"):
            await client.chat.completions.create(**chat(*[passage(TEXT[0])] * 9))

    async def test_too_long(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            long = passage("word " * 10_000)
            await client.chat.completions.create(**chat(long, extra={"rest": "compress"}))
        assert refused.value.code == "context_length_exceeded"

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"n": 2}, "n"),
            ({"temperature": -1}, "temperature"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"logprobs": 3}, "logprobs"),
            ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
            ({"stop": [""]}, "stop"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"extra": {"policy": "unheard-of"}}, "policy"),
            ({"budget": -1}, "budget"),
            ({"budget": "much"}, "budget"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": " "}]}, "empty"),
            ({"messages": [{"role": "nobody", "content": "x"}]}, "role"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "messages.0.content",
            ),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_makes_no_sense_is_named(
        self, client: AsyncOpenAI, options: dict[str, Any], named: str, stream: bool
    ) -> None:
        with pytest.raises(openai.BadRequestError, match=named):
            await client.chat.completions.create(**chat(**options), stream=stream)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 1}'])
    async def test_noise(self, http: httpx.AsyncClient, body: bytes) -> None:
        answer = await http.post("chat/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
