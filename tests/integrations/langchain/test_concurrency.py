"""Many callers of one ChatRefrag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from langchain_refrag import ChatRefrag
from refrag_components.engines import TransformersEngine
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.engines.steps import Steps
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, retrieve

CALLERS = 64
TOGETHER = 8  # rows that surely meet in one step if all callers have called before the first
PASSAGES = (HARBOUR, RAIN, PRICES)

Call = tuple[list[BaseMessage], dict[str, Any]]


def call(caller: int) -> Call:
    """What a caller asks: each something else, of other lengths, passages and settings."""
    passages = [PASSAGES[i % 3] for i in range(caller, caller + 1 + caller % 3)]
    retrieve(f"Question {caller}", *passages)
    context = "\n\n".join(passages)
    messages: list[BaseMessage] = [
        HumanMessage(f"Context: {context}\n\nQuestion {caller}: {'what then, ' * (caller % 5)}?")
    ]
    settings = {"budget": caller % 3 / 2, "rest": "compress", "max_tokens": 3 + caller % 6}
    return messages, settings


def greedy(caller: int) -> Call:
    return call(caller)


def sampled(caller: int) -> Call:
    messages, settings = call(caller)
    return messages, {**settings, "temperature": 1.0, "top_p": 0.9, "seed": caller}


WAYS = pytest.mark.parametrize("ask", [greedy, sampled])


@pytest.fixture
def steps(chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch) -> Steps:
    engine = load_checkpoint(chat.model_name, chat.device).generator.engine
    assert isinstance(engine, TransformersEngine)
    return Steps(engine, monkeypatch)


def expected(chat: ChatRefrag, ask: Callable[[int], Call]) -> list[str]:
    """What single callers are told, one after the other."""
    answers = []
    for caller in range(CALLERS):
        messages, settings = ask(caller)
        answers.append(chat.invoke(messages, **settings).text)
    assert len(set(answers)) > CALLERS / 2
    return answers


@WAYS
def test_threads(chat: ChatRefrag, steps: Steps, ask: Callable[[int], Call]) -> None:
    alone = expected(chat, ask)
    steps.hold(until=CALLERS)
    together = Barrier(CALLERS)

    def work(caller: int) -> str:
        messages, settings = ask(caller)
        together.wait()
        if caller % 8 == 0:
            return "".join(chunk.text for chunk in chat.stream(messages, **settings))
        return chat.invoke(messages, **settings).text

    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(work, range(CALLERS))) == alone
    assert max(steps.sizes) >= TOGETHER


@WAYS
async def test_tasks(chat: ChatRefrag, steps: Steps, ask: Callable[[int], Call]) -> None:
    alone = expected(chat, ask)
    steps.hold(until=CALLERS)

    async def work(caller: int) -> str:
        messages, settings = ask(caller)
        if caller % 8 == 0:
            return "".join([chunk.text async for chunk in chat.astream(messages, **settings)])
        return (await chat.ainvoke(messages, **settings)).text

    assert await asyncio.gather(*map(work, range(CALLERS))) == alone
    assert max(steps.sizes) >= TOGETHER


@pytest.mark.parametrize("seed", [None, 7])
async def test_batches(tiny_folder: Path, steps: Steps, seed: int | None) -> None:
    settings = {} if seed is None else {"temperature": 1.0, "seed": seed}
    chat = ChatRefrag(model=str(tiny_folder), max_tokens=6, **settings)  # type: ignore[arg-type]
    prompts = [call(caller)[0] for caller in range(16)]
    alone = [chat.invoke(prompt).text for prompt in prompts]
    steps.hold(until=len(prompts))
    threads = RunnableConfig(max_concurrency=len(prompts))
    assert [answer.text for answer in chat.batch(prompts, threads)] == alone
    assert max(steps.sizes) >= TOGETHER
    steps.hold(until=len(prompts))
    assert [answer.text for answer in await chat.abatch(prompts)] == alone
    assert max(steps.sizes) >= TOGETHER
