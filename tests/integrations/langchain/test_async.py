"""ChatRefrag and RefragLLM in an event loop."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import HumanMessage

from langchain_refrag import ChatRefrag, RefragLLM
from refrag_components.engines import TransformersEngine
from refrag_components.exceptions import ContextWindowError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.engines.steps import Steps

PROMPT = "Tell me about the harbour."


@pytest.fixture(params=["chat", "text"])
def model(request: pytest.FixtureRequest, chat: ChatRefrag) -> ChatRefrag | RefragLLM:
    text = RefragLLM(model=chat.model_name, max_tokens=chat.max_tokens)
    return chat if request.param == "chat" else text


@pytest.fixture
def steps(chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch) -> Steps:
    engine = load_checkpoint(chat.model_name, chat.device).generator.engine
    assert isinstance(engine, TransformersEngine)
    return Steps(engine, monkeypatch)


@pytest.mark.parametrize("way", ["ainvoke", "astream", "abatch"])
async def test_a_cancelled_call_stops_at_the_next_step(
    model: BaseLanguageModel[object], steps: Steps, way: str
) -> None:
    async def call() -> None:
        if way == "astream":
            async for _ in model.astream(PROMPT, max_tokens=200):
                pass
        elif way == "abatch":
            await model.abatch([PROMPT], max_tokens=200)
        else:
            await model.ainvoke(PROMPT, max_tokens=200)

    steps.hold(until=1)
    steps.allow(2)
    task = asyncio.create_task(call())
    await asyncio.to_thread(steps.wait, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    steps.hold(until=0)
    steps.allow(None)
    assert await model.ainvoke(PROMPT, max_tokens=2)
    assert len(steps.sizes) <= 3


async def test_many_prompts_of_one_call(chat: ChatRefrag, steps: Steps) -> None:
    model = RefragLLM(model=chat.model_name, max_tokens=5)
    prompts = [f"{PROMPT} {i}" for i in range(6)]
    alone = [model.invoke(prompt) for prompt in prompts]
    steps.hold(until=len(prompts))
    assert await model.abatch(list(prompts)) == alone
    assert max(steps.sizes) > 1
    with pytest.raises(ContextWindowError):
        await model.abatch([PROMPT, "x " * 2000])


async def test_errors_are_the_same(chat: ChatRefrag) -> None:
    long = [HumanMessage("x " * 2000)]
    with pytest.raises(ContextWindowError):
        await chat.ainvoke(long)
    with pytest.raises(ContextWindowError):
        async for _ in chat.astream(long):
            pass
