"""RefragLLM in an event loop."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index.llms.refrag import RefragLLM
from refrag_components.engines import TransformersEngine
from refrag_components.exceptions import ContextWindowError
from tests.engines.steps import Steps

PROMPT = "Tell me about the harbour."
WAYS = ("acomplete", "achat", "astream_complete", "astream_chat", "apredict", "astream")


@pytest.fixture
def steps(llm: RefragLLM, monkeypatch: pytest.MonkeyPatch) -> Steps:
    engine = llm._checkpoint().generator.engine
    assert isinstance(engine, TransformersEngine)
    return Steps(engine, monkeypatch)


@pytest.mark.parametrize("way", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_a_cancelled_call_stops_at_the_next_step(
    llm: RefragLLM, steps: Steps, way: str
) -> None:
    asked = [ChatMessage(content=PROMPT)] if way.endswith("chat") else PROMPT

    async def call() -> None:
        answer = await getattr(llm, way)(asked, max_tokens=200)
        if "stream" in way:
            async for _ in answer:
                pass

    steps.hold(until=1)
    steps.allow(2)
    task = asyncio.create_task(call())
    await asyncio.to_thread(steps.wait, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    steps.hold(until=0)
    steps.allow(None)
    assert await llm.acomplete(PROMPT, max_tokens=2)
    assert len(steps.sizes) <= 3


async def test_tasks_are_answered_together_as_alone(llm: RefragLLM, steps: Steps) -> None:
    prompts = [f"{PROMPT} {'again ' * i}" for i in range(12)]
    alone = [llm.complete(prompt).text for prompt in prompts]
    steps.hold(until=len(prompts))
    answers = await asyncio.gather(*(llm.acomplete(prompt) for prompt in prompts))
    assert [answer.text for answer in answers] == alone
    assert max(steps.sizes) > 1


async def test_one_bad_prompt_disturbs_nobody(llm: RefragLLM) -> None:
    alone = llm.complete(PROMPT).text
    answers = await asyncio.gather(
        llm.acomplete(PROMPT), llm.acomplete("x " * 20000), return_exceptions=True
    )
    assert str(answers[0]) == alone
    assert isinstance(answers[1], ContextWindowError)


class TestTheEventLoop:
    """What takes long at first use is done in a thread: loading weights, hashing files."""

    @pytest.mark.parametrize("way", [*WAYS, "achat_with_tools", "astructured_predict"])
    async def test_at_first_use(
        self, folder: str, tool_folder: Path, tmp_path: Path, threads: dict[str, Any], way: str
    ) -> None:
        made = tool_folder if way == "achat_with_tools" else folder
        fresh = shutil.copytree(made, tmp_path / "fresh")  # this process has not seen it
        await ask(RefragLLM(model=str(fresh), max_tokens=60), way)
        assert threads["from_pretrained"] == [False]
        assert threads["_digest_of_files"] == [False]
        assert not any(threads.get("position_limit", ()))

    @pytest.mark.parametrize("streaming", [False, True])
    async def test_an_agent_s_first_step(
        self, tool_folder: Path, tmp_path: Path, threads: dict[str, Any], streaming: bool
    ) -> None:
        fresh = str(shutil.copytree(tool_folder, tmp_path / "fresh"))
        llm = await asyncio.to_thread(RefragLLM, model=fresh, max_tokens=4)
        tools = [FunctionTool.from_defaults(len, name="len")]
        await FunctionAgent(tools=tools, llm=llm, streaming=streaming).run(PROMPT)
        assert threads["from_pretrained"] == [False]
        assert threads["_digest_of_files"] == [False]
        assert not any(threads["position_limit"])


class Fine(BaseModel):
    fine: bool


async def ask(llm: RefragLLM, way: str) -> None:
    asked: Any = PROMPT
    options: dict[str, Any] = {}
    if way in ("achat", "astream_chat"):
        asked = [ChatMessage(content=PROMPT)]
    elif way in ("apredict", "astream"):
        asked = PromptTemplate(PROMPT)
    elif way == "achat_with_tools":
        asked, options = [FunctionTool.from_defaults(len, name="len")], {"user_msg": PROMPT}
    elif way == "astructured_predict":
        asked, options = Fine, {"prompt": PromptTemplate(PROMPT)}
    answer = await getattr(llm, way)(asked, **options)
    if "stream" in way:
        async for _ in answer:
            pass
