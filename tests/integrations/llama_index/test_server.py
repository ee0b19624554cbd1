"""RefragLLM whose model is at a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index.llms.refrag import RefragLLM
from refrag_components.exceptions import (
    AnswerTimeoutError,
    ContextWindowError,
    ServerError,
    ToolCallingError,
)
from refrag_components.generation.generator import RefragGenerator
from refrag_components.serving.app import create_app
from tests.integrations.llama_index.conftest import HARBOUR, PASSAGES, QUESTION, RAIN
from tests.integrations.llama_index.test_async import WAYS, ask
from tests.serving.running import running


class Dug(BaseModel):
    dug: bool


@pytest.fixture
def remote(llm: RefragLLM) -> Iterator[RefragLLM]:
    generator = RefragGenerator(llm._checkpoint().model)
    with running(create_app(generator, name="tiny", tokens=["secret"])) as url:
        yield RefragLLM(model="tiny", base_url=url, api_key="secret", max_tokens=llm.max_tokens)


async def test_answers_are_those_in_process(llm: RefragLLM, remote: RefragLLM) -> None:
    messages = [ChatMessage(content=QUESTION)]
    documents = list(PASSAGES)
    expected = str(llm.chat(messages, documents=documents).message.content)
    answer = remote.chat(messages, documents=documents)
    assert answer.message.content == expected
    assert answer.raw["refrag"]["cache_misses"] == 3  # type: ignore[index]
    assert (await remote.achat(messages, documents=documents)).message.content == expected
    assert list(remote.stream_chat(messages, documents=documents))[-1].message.content == expected
    grown = [each async for each in await remote.astream_chat(messages, documents=documents)]
    assert grown[-1].message.content == expected
    prompt = f"{HARBOUR}\n\n{QUESTION}"
    for formatted in (False, True):
        own = llm.complete(prompt, formatted, documents=[HARBOUR])
        assert remote.complete(prompt, formatted, documents=[HARBOUR]).text == own.text


def test_query_engines(index: VectorStoreIndex, llm: RefragLLM, remote: RefragLLM) -> None:
    local, distant = (str(index.as_query_engine(llm=m).query(QUESTION)) for m in (llm, remote))
    assert distant == local


def test_structured_output(remote: RefragLLM) -> None:
    answer = remote.structured_predict(Dug, PromptTemplate("Dug?"), llm_kwargs={"max_tokens": 60})
    assert isinstance(answer, Dug)


def test_options_of_an_answer(llm: RefragLLM, remote: RefragLLM) -> None:
    for formatted in (False, True):
        own, answer = (
            each.complete(QUESTION, formatted, logprobs=True, top_logprobs=1)
            for each in (llm, remote)
        )
        tokens = [[told[0].token for told in each.logprobs or ()] for each in (own, answer)]
        assert tokens[0] == tokens[1] != []
    with pytest.raises(AnswerTimeoutError):
        remote.complete(QUESTION, timeout=1e-9)


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_asked_in_a_thread(
    remote: RefragLLM, threads: dict[str, list[bool]], way: str
) -> None:
    await ask(remote, way)
    assert threads == {"get": [False]}


def test_tools_are_refused_by_name(remote: RefragLLM) -> None:
    assert not remote.metadata.is_function_calling_model
    with pytest.raises(ToolCallingError, match="without base_url"):
        remote.chat_with_tools([FunctionTool.from_defaults(len, name="len")], QUESTION)


def test_metadata_and_errors(llm: RefragLLM, remote: RefragLLM) -> None:
    assert remote.metadata.context_window == llm.metadata.context_window
    with pytest.raises(ContextWindowError):
        remote.complete(RAIN * 2000)
    with pytest.raises(ServerError, match="base_url"):
        remote.explain(QUESTION)
    with pytest.raises(ServerError, match="base_url"):
        remote.token_ids(QUESTION)
    assert "secret" not in str(remote.to_dict())
