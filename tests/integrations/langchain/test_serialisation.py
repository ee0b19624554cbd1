"""Models written down and made again, as LangChain does for traces and prompts."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.load import dumpd, dumps, load
from langchain_core.prompts import (
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
)
from langchain_core.runnables import RunnableSequence

from langchain_refrag import ChatRefrag, RefragLLM
from refrag_components.stores.memory import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore:The function `load` is in beta")
SETTINGS: dict[str, Any] = {"budget": 0.5, "temperature": 0.3, "stop": ["."], "n": 2}


CLASSES = (ChatRefrag, RefragLLM, ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate)


def again(written: Any, **options: Any) -> Any:
    allowed = [*CLASSES, RunnableSequence]
    return load(written, valid_namespaces=["langchain_refrag"], allowed_objects=allowed, **options)


@pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
def test_settings_come_back(kind: Any, chat: ChatRefrag) -> None:
    assert kind.is_lc_serializable()
    model = kind(model=chat.model_name, store=MemoryStore(), **SETTINGS)
    restored = again(dumpd(model))
    assert type(restored) is kind
    assert restored._identifying_params == model._identifying_params
    assert restored.store is None


def test_a_chain_comes_back(chat: ChatRefrag) -> None:
    chain = ChatPromptTemplate.from_template("{question}") | chat
    assert again(dumpd(chain)).invoke({"question": "Who?"}).text == chat.invoke("Who?").text


def test_the_key_of_a_server_is_not_written() -> None:
    chat = ChatRefrag(model="tiny", base_url="http://localhost:9/v1", api_key="a-secret")
    assert "a-secret" not in dumps(chat)
    restored = again(dumpd(chat), secrets_map={"REFRAG_API_KEY": "another"})
    assert restored.api_key.get_secret_value() == "another"
