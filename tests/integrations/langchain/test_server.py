"""ChatRefrag and RefragLLM whose model is at a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from langchain_refrag import ChatRefrag, RefragLLM
from refrag_components.exceptions import (
    ContextWindowError,
    ServerError,
    ToolCallingError,
    UnknownPolicyError,
)
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.policies import RandomPolicy
from refrag_components.serving.app import create_app
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, retrieve
from tests.serving.running import running

QUESTION = "When was the harbour dug?"


class Served(BaseModel):
    dug: bool


@pytest.fixture
def served(chat: ChatRefrag) -> RefragGenerator:
    return RefragGenerator(load_checkpoint(chat.model_name, chat.device).model)


@pytest.fixture
def options(served: RefragGenerator, chat: ChatRefrag) -> Iterator[dict[str, Any]]:
    with running(create_app(served, name="tiny", tokens=["secret"])) as url:
        yield {
            "model": "tiny",
            "base_url": url,
            "api_key": "secret",
            "max_tokens": chat.max_tokens,
        }


def prompt() -> list[HumanMessage]:
    retrieve(QUESTION, HARBOUR, RAIN, PRICES)
    return [HumanMessage(f"Context:\n{HARBOUR}\n\n{RAIN}\n\n{PRICES}\n\nQuestion: {QUESTION}")]


async def test_answers_are_those_in_process(chat: ChatRefrag, options: dict[str, Any]) -> None:
    remote = ChatRefrag(**options)
    expected = chat.invoke(prompt())
    answer = remote.invoke(prompt())
    assert answer.text == expected.text
    assert answer.usage_metadata == expected.usage_metadata
    assert answer.response_metadata["refrag"]["chunks"] > 0
    assert (await remote.ainvoke(prompt())).text == expected.text
    assert "".join(chunk.text for chunk in remote.stream(prompt())) == expected.text
    chunks = [chunk async for chunk in remote.astream(prompt())]
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata] == [
        expected.usage_metadata
    ]


def test_text_models(chat: ChatRefrag, options: dict[str, Any]) -> None:
    local = RefragLLM(model=chat.model_name, max_tokens=chat.max_tokens)
    prompts = [f"{HARBOUR} {QUESTION}", RAIN]
    retrieve(QUESTION, HARBOUR)
    assert RefragLLM(**options).batch(prompts) == local.batch(prompts)


def test_vectors_of_the_laptops_store_are_used(
    options: dict[str, Any], served: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    key = passage_key(HARBOUR, served.model.fingerprint)
    store.mset([(key, served.model.encode_passages([HARBOUR])[0])])
    remote = ChatRefrag(**options, store=store)
    monkeypatch.setattr(served.model, "encode_passages", None)
    answer = remote.invoke(QUESTION, documents=[Document(HARBOUR)])
    assert answer.response_metadata["refrag"]["cache_hits"] == 1


def test_structured_output(options: dict[str, Any]) -> None:
    remote = ChatRefrag(**options | {"max_tokens": 60})
    answer = remote.with_structured_output(Served).invoke(QUESTION)
    assert isinstance(answer, Served)


@pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
async def test_it_is_asked_in_a_thread(
    kind: Any, options: dict[str, Any], threads: dict[str, list[bool]]
) -> None:
    await kind(**options).ainvoke(QUESTION)
    async for _ in kind(**options).astream(QUESTION):
        pass
    assert threads == {"get": [False]}


def test_what_a_server_does_not_do_is_named(options: dict[str, Any]) -> None:
    remote = ChatRefrag(**options)
    with pytest.raises(ToolCallingError, match="base_url"):
        remote.bind_tools([Served])
    with pytest.raises(ServerError, match="base_url"):
        remote.explain(QUESTION)
    with pytest.raises(ServerError, match="base_url"):
        remote.get_num_tokens_from_messages(prompt())
    with pytest.raises(UnknownPolicyError, match="base_url"):
        ChatRefrag(**options, policy=RandomPolicy())


@pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
async def test_overflow_is_an_error_by_either_name(kind: Any, options: dict[str, Any]) -> None:
    remote = kind(**options)
    for error in (ContextOverflowError, ContextWindowError):
        with pytest.raises(error):
            remote.invoke("x " * 5000)
        with pytest.raises(error):
            list(remote.stream("x " * 5000))
        with pytest.raises(error):
            async for _ in remote.astream("x " * 5000):
                pass


def test_the_key_is_in_no_cache_or_trace(options: dict[str, Any]) -> None:
    remote = ChatRefrag(**options)
    assert "secret" not in repr(remote)
    assert "secret" not in str(remote._get_invocation_params())
    assert "secret" not in remote._get_llm_string()
