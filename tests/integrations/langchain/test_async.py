"""ChatRefrag and RefragLLM in an event loop."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.messages import HumanMessage

from langchain_refrag import ChatRefrag, RefragLLM
from refrag_components.engines import TransformersEngine
from refrag_components.exceptions import ContextWindowError, ToolCallingError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
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


class TestTheEventLoop:
    """What takes long at first use is done in a thread: loading weights, hashing files."""

    @pytest.fixture
    def fresh(self, chat: ChatRefrag, tmp_path: Path) -> str:
        """A checkpoint that this process has not seen."""
        return str(shutil.copytree(chat.model_name, tmp_path / "fresh"))

    @pytest.mark.parametrize("way", ["ainvoke", "astream", "agenerate"])
    @pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
    async def test_at_first_use(
        self, kind: Any, way: str, fresh: str, threads: dict[str, list[bool]]
    ) -> None:
        await self.ask(kind(model=fresh, max_tokens=2), way)
        assert threads["from_pretrained"] == [False]
        assert threads["_digest_of_files"] == [False]

    @pytest.mark.skipif(
        "v3" not in str(inspect.signature(BaseChatModel.astream_events)),
        reason="this langchain-core has no typed events",
    )
    @pytest.mark.parametrize("bound", [False, True])
    async def test_typed_events(
        self, fresh: str, threads: dict[str, list[bool]], bound: bool
    ) -> None:
        chat = ChatRefrag(model=fresh, max_tokens=2)
        model = chat.bind(max_tokens=3) if bound else chat
        stream = await model.astream_events(PROMPT, version="v3")
        assert (await stream.output).text == chat.invoke(PROMPT, max_tokens=3 if bound else 2).text
        assert threads["from_pretrained"] == [False]
        assert threads["_digest_of_files"] == [False]

    @pytest.mark.parametrize("way", ["ainvoke", "astream"])
    @pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
    async def test_another_model_for_a_call(
        self, kind: Any, way: str, chat: ChatRefrag, fresh: str, threads: dict[str, list[bool]]
    ) -> None:
        await self.ask(kind(model=chat.model_name, max_tokens=2), way, model=fresh)
        assert threads["from_pretrained"] == [False]
        assert not any(threads["_digest_of_files"])

    def test_tools_and_schemas_are_bound_without_weights(
        self, tool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Agents bind them in the event loop."""
        monkeypatch.setattr(RefragModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
        chat = ChatRefrag(model=str(shutil.copytree(tool_folder, tmp_path / "fresh")))
        schema = {"title": "Depth", "type": "object", "properties": {"metres": {"type": "number"}}}
        chat.bind_tools([schema], tool_choice="any")
        chat.with_structured_output(schema)
        with pytest.raises(ToolCallingError):
            chat.bind_tools([schema], tool_choice="Length")

    @staticmethod
    async def ask(asked: Any, way: str, **options: Any) -> None:
        if way == "astream":
            async for _ in asked.astream(PROMPT, **options):
                pass
        elif way == "agenerate":
            prompt = [HumanMessage(PROMPT)] if isinstance(asked, ChatRefrag) else PROMPT
            await asked.agenerate([prompt], **options)
        else:
            await asked.ainvoke(PROMPT, **options)
