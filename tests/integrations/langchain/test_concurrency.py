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
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, retrieve
from tests.integrations.langchain.passes import Passes

CALLERS = 64
BATCHED = CALLERS - CALLERS // 8  # the others stream
AT_ONCE = 5  # the least number of threads in Python's own pool
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
    return messages, {"budget": caller % 3 / 2, "max_tokens": 3 + caller % 6}


def greedy(caller: int) -> Call:
    return call(caller)


def sampled(caller: int) -> Call:
    messages, settings = call(caller)
    return messages, {**settings, "temperature": 1.0, "top_p": 0.9, "seed": caller}


WAYS = pytest.mark.parametrize("ask", [greedy, sampled])


@pytest.fixture
def passes(chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """How many prompts each call of the engine had."""
    checkpoint = load_checkpoint(chat.model_name, chat.device)
    engine = checkpoint.generator.engine
    passes = Passes(checkpoint, engine.generate)
    monkeypatch.setattr(engine, "generate", passes)
    return passes


def expected(chat: ChatRefrag, ask: Callable[[int], Call]) -> list[str]:
    """What single callers are told, one after the other."""
    answers = []
    for caller in range(CALLERS):
        messages, settings = ask(caller)
        answers.append(chat.invoke(messages, **settings).text)
    assert len(set(answers)) > CALLERS / 2
    return answers


@WAYS
def test_threads(chat: ChatRefrag, passes: Passes, ask: Callable[[int], Call]) -> None:
    alone = expected(chat, ask)
    passes.start(BATCHED)
    together = Barrier(CALLERS)

    def work(caller: int) -> str:
        messages, settings = ask(caller)
        together.wait()
        if caller % 8 == 0:
            return "".join(chunk.text for chunk in chat.stream(messages, **settings))
        return chat.invoke(messages, **settings).text

    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(work, range(CALLERS))) == alone
    assert sum(passes.sizes) == BATCHED
    assert len(passes.sizes) < BATCHED / 2


@WAYS
async def test_tasks(chat: ChatRefrag, passes: Passes, ask: Callable[[int], Call]) -> None:
    alone = expected(chat, ask)
    passes.start(AT_ONCE)

    async def work(caller: int) -> str:
        messages, settings = ask(caller)
        if caller % 8 == 0:
            return "".join([chunk.text async for chunk in chat.astream(messages, **settings)])
        return (await chat.ainvoke(messages, **settings)).text

    assert await asyncio.gather(*map(work, range(CALLERS))) == alone
    assert sum(passes.sizes) == BATCHED
    assert len(passes.sizes) < BATCHED


@pytest.mark.parametrize("seed", [None, 7])
async def test_batches(tiny_folder: Path, passes: Passes, seed: int | None) -> None:
    settings = {} if seed is None else {"temperature": 1.0, "seed": seed}
    chat = ChatRefrag(model=str(tiny_folder), max_tokens=6, **settings)  # type: ignore[arg-type]
    prompts = [call(caller)[0] for caller in range(16)]
    alone = [chat.invoke(prompt).text for prompt in prompts]
    together = []
    passes.start(len(prompts))
    threads = RunnableConfig(max_concurrency=len(prompts))
    assert [answer.text for answer in chat.batch(prompts, threads)] == alone
    together += passes.sizes
    passes.start(AT_ONCE)
    assert [answer.text for answer in await chat.abatch(prompts)] == alone
    together += passes.sizes
    assert sum(together) == 2 * len(prompts)
    assert len(together) < len(prompts)
