"""LangChain's own answer cache must never give the answer to another prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_refrag import ChatRefrag, RefragLLM
from langchain_refrag.settings import WITHOUT_INFLUENCE
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.remote import RemoteGenerator
from refrag_components.generation.remote_request import Served
from refrag_components.generation.settings import AnswerSettings
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.policies import RandomPolicy
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN

QUESTION = "What does it say?"


# How long is waited, and where vectors are kept, changes no answer.
_WITHOUT = {"api_key", "connect_timeout", "read_timeout", "store", "timeout"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each prompt that reaches the generator."""
    made: list[int] = []
    generate = RefragGenerator.generate

    def counting(self: RefragGenerator, requests: Any, params: Any) -> Any:
        made.extend([1] * len(requests))
        return generate(self, requests, params)

    monkeypatch.setattr(RefragGenerator, "generate", counting)
    return made


@pytest.fixture
def chat(tiny_folder: Path) -> ChatRefrag:
    return ChatRefrag(model=str(tiny_folder), max_tokens=4, cache=InMemoryCache())


def by_call(text: str) -> dict[str, Any]:
    return {"input": QUESTION, "documents": [Document(page_content=text)]}


def by_dict(text: str) -> dict[str, Any]:
    return {"input": QUESTION, "documents": [{"page_content": text}]}


def by_artifact(text: str) -> dict[str, Any]:
    artifact = [Document(page_content=text)]
    call = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])
    tool = ToolMessage(f"Found: {text}", tool_call_id="1", artifact=artifact)
    return {"input": [HumanMessage(QUESTION), call, tool]}


def by_kwargs(text: str) -> dict[str, Any]:
    return {"input": [HumanMessage(QUESTION, additional_kwargs={"documents": [{"text": text}]})]}


@pytest.mark.parametrize("arguments", [by_call, by_dict, by_artifact, by_kwargs])
def test_other_documents_same_question(
    chat: ChatRefrag, calls: list[int], arguments: Callable[[str], dict[str, Any]]
) -> None:
    answers = [chat.invoke(**arguments(text)).content for text in (HARBOUR, RAIN, PRICES)]
    assert len(calls) == 3
    assert [chat.invoke(**arguments(text)).content for text in (HARBOUR, RAIN, PRICES)] == answers
    assert len(calls) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": 1.0},
        {"budget": 0.0, "rest": "compress"},
        {"budget": 64},
        {"rest": "compress"},
        {"policy": "none", "rest": "compress"},
        {"max_tokens": 3},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 3},
        {"repetition_penalty": 1.5},
        {"seed": 3},
        {"stop": ["e"]},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
    ],
)
def test_other_settings_same_prompt(
    chat: ChatRefrag, tiny_folder: Path, calls: list[int], settings: dict[str, Any]
) -> None:
    cache = InMemoryCache()
    llm = RefragLLM(model=str(tiny_folder), max_tokens=4, cache=cache)
    for model in (chat, llm):
        calls.clear()
        model.invoke(QUESTION)
        model.invoke(QUESTION, **settings)
        model.model_copy(update=settings).invoke(QUESTION)
        assert len(calls) == 2, "a setting of the call is the setting of the model"
        model.invoke(QUESTION)
        assert len(calls) == 2


@pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
def test_every_field_is_in_the_identity_or_known_to_have_no_influence(
    kind: type[ChatRefrag | RefragLLM], tiny_folder: Path
) -> None:
    """A new setting, ours or LangChain's, is in the key unless somebody decides otherwise."""
    fields = set(kind.model_fields)
    identity = kind(model=str(tiny_folder))._identifying_params
    assert set(identity) - {"checkpoint"} == fields - WITHOUT_INFLUENCE
    assert {*ChatRefrag.model_fields, *RefragLLM.model_fields} >= WITHOUT_INFLUENCE
    settings = set(AnswerSettings.model_fields) - _WITHOUT
    assert settings <= set(identity), "a setting of the answer is left out of the key"


@pytest.mark.parametrize("name", sorted(set(AnswerSettings.model_fields) - _WITHOUT))
def test_another_value_is_another_identity(
    name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteGenerator, "served", Served("f00d", 4, 24, 512))
    other = {
        "engine": load_checkpoint(str(tiny_folder)).generator.engine,
        "policy": "random",
        "budget": 0.5,
        "rest": "compress",
        "max_tokens": 3,
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 3,
        "repetition_penalty": 1.5,
        "stop": ["x"],
        "seed": 1,
        "reproducible": True,
        "logprobs": True,
        "top_logprobs": 2,
        "device": "cpu",
        "base_url": "http://gpu:8000/v1",
    }
    chat = ChatRefrag(model=str(tiny_folder))
    changed = chat.model_copy(update={name: other[name]})
    assert changed._identifying_params != chat._identifying_params
    assert changed._get_llm_string() != chat._get_llm_string()
    assert changed._get_llm_string() == changed.model_copy()._get_llm_string()


def test_a_policy_of_ones_own_shares_no_answer_with_another_one(
    chat: ChatRefrag, tiny_folder: Path, calls: list[int]
) -> None:
    first, second = RandomPolicy(seed=1), RandomPolicy(seed=2)
    llm = RefragLLM(model=str(tiny_folder), max_tokens=4, cache=InMemoryCache())
    for model in (chat, llm):
        calls.clear()
        for policy in (first, second, first, second, "random"):
            model.invoke(QUESTION, policy=policy)
        assert len(calls) == 3
    strings = {chat._get_llm_string(policy=RandomPolicy(seed=1)) for _ in range(20)}
    assert len(strings) == 20  # each was gone before the next, maybe from the same address


def test_other_checkpoint_same_prompt(
    chat: ChatRefrag, other_folder: Path, calls: list[int]
) -> None:
    chat.invoke(QUESTION)
    chat.invoke(QUESTION, model=str(other_folder))
    assert len(calls) == 2
