"""Options that LangChain's other models have: n, logprobs, timeout; here and with a server."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.tools import tool

from langchain_refrag import ChatRefrag, RefragLLM
from refrag_components.engines import TransformersEngine
from refrag_components.exceptions import AnswerTimeoutError, SamplingError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.engines.steps import Steps

QUESTION = "When was the harbour dug?"
DRAWN: dict[str, Any] = {"temperature": 2.0, "seed": 7}


@pytest.fixture(params=["here", "at a server"])
def options(request: pytest.FixtureRequest, chat: ChatRefrag) -> Iterator[dict[str, Any]]:
    """Keywords of models that answer in this process, or have a server answer."""
    if request.param == "here":
        yield {"model": chat.model_name, "max_tokens": 8}
        return
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from refrag_components.serving.app import create_app
    from tests.serving.running import running

    served = RefragGenerator(load_checkpoint(chat.model_name, chat.device).model)
    with running(create_app(served, name="tiny")) as url:
        yield {"model": "tiny", "base_url": url, "max_tokens": 8}


def texts(result: LLMResult) -> list[list[str]]:
    return [[generation.text for generation in each] for each in result.generations]


class TestSeveralAnswers:
    async def test_of_a_chat(self, options: dict[str, Any]) -> None:
        chat = ChatRefrag(**options, **DRAWN)
        messages = [HumanMessage(QUESTION)]
        alone = [chat.invoke(messages, seed=7 + i).text for i in range(3)]
        assert len(set(alone)) > 1
        assert texts(chat.generate([messages], n=3)) == [alone]
        assert texts(await chat.agenerate([messages], n=3)) == [alone]
        of_the_model = ChatRefrag(**options, **DRAWN, n=2)
        assert texts(of_the_model.generate([messages])) == [alone[:2]]
        assert of_the_model.invoke(messages).text == alone[0]

    async def test_of_a_text_model(self, options: dict[str, Any]) -> None:
        llm = RefragLLM(**options, **DRAWN)
        prompts = [QUESTION, "Who says so?"]
        alone = [[llm.invoke(prompt, seed=7 + i) for i in range(2)] for prompt in prompts]
        assert texts(llm.generate(prompts, n=2)) == alone
        assert texts(await llm.agenerate(prompts, n=2)) == alone

    async def test_a_stream_is_one(self, options: dict[str, Any]) -> None:
        chat, llm = ChatRefrag(**options, n=2), RefragLLM(**options)
        with pytest.raises(SamplingError, match="a stream is one answer"):
            list(chat.stream(QUESTION))
        with pytest.raises(SamplingError, match="a stream is one answer"):
            async for _ in chat.astream(QUESTION):
                pass
        with pytest.raises(SamplingError, match="a stream is one answer"):
            list(llm.stream(QUESTION, n=2))
        with pytest.raises(SamplingError, match="a stream is one answer"):
            async for _ in llm.astream(QUESTION, n=2):
                pass

    @pytest.mark.parametrize("n", [0, True, 1.5, "2"])
    def test_bad_numbers(self, chat: ChatRefrag, n: Any) -> None:
        with pytest.raises(SamplingError, match="n must be an int"):
            chat.invoke(QUESTION, n=n)

    @pytest.mark.parametrize("kind", [ChatRefrag, RefragLLM])
    def test_are_cached_together(self, chat: ChatRefrag, kind: Any) -> None:
        model = kind(model=chat.model_name, max_tokens=8, cache=InMemoryCache(), temperature=2.0)
        asked: Any = [[HumanMessage(QUESTION)]] if kind is ChatRefrag else [QUESTION]
        two = texts(model.generate(asked, n=2))
        one = texts(model.generate(asked))
        assert [len(each) for each in (*one, *two)] == [1, 2]
        assert texts(model.generate(asked, n=2)) == two  # drawn without a seed
        assert texts(model.generate(asked)) == one


class TestLogprobs:
    async def test_are_beside_the_report(self, options: dict[str, Any]) -> None:
        chat = ChatRefrag(**options)
        answer = chat.invoke(QUESTION, logprobs=True, top_logprobs=2)
        content = answer.response_metadata["logprobs"]["content"]
        assert len(content) == answer.response_metadata["refrag"]["output_tokens"]
        for told in content:
            assert told["logprob"] <= 0
            likeliest, second = told["top_logprobs"]
            assert likeliest["token"] == told["token"]  # nothing is drawn
            assert second["logprob"] <= likeliest["logprob"]
        tokens = [told["token"] for told in content]
        for other in (
            await chat.ainvoke(QUESTION, logprobs=True),
            reduce(add, chat.stream(QUESTION, logprobs=True)),
            reduce(add, [c async for c in chat.astream(QUESTION, logprobs=True)]),
            chat.bind(logprobs=True).invoke(QUESTION),
            ChatRefrag(**options, logprobs=True).invoke(QUESTION),
        ):
            told = other.response_metadata["logprobs"]["content"]
            assert [each["token"] for each in told] == tokens
        assert "logprobs" not in chat.invoke(QUESTION).response_metadata

    def test_of_a_text_model(self, options: dict[str, Any]) -> None:
        llm = RefragLLM(**options)
        whole = llm.generate([QUESTION], logprobs=True, top_logprobs=1).generations[0][0]
        assert whole.generation_info is not None
        content = whole.generation_info["logprobs"]["content"]
        assert len(content) == whole.generation_info["refrag"]["output_tokens"]

        class Streamed(BaseCallbackHandler):
            tokens: list[str]

            def on_llm_end(self, response: LLMResult, **_: Any) -> None:
                info = response.generations[0][0].generation_info or {}
                self.tokens = [each["token"] for each in info["logprobs"]["content"]]

        handler = Streamed()
        list(llm.stream(QUESTION, {"callbacks": [handler]}, logprobs=True))
        assert handler.tokens == [each["token"] for each in content]

    @pytest.mark.usefixtures("scripted")
    def test_of_a_tool_call_that_is_demanded(self, tool_folder: Any) -> None:
        """Nothing is lost while no part of the call is certain."""

        @tool
        def look(at: bool) -> bool:
            """Looks."""
            return at

        generator = load_checkpoint(str(tool_folder), "cpu").generator
        chat = ChatRefrag(
            model=str(tool_folder),
            device="cpu",
            max_tokens=60,
            engine=TransformersEngine(generator.model),
        )
        calling = chat.bind_tools([look], tool_choice="look", logprobs=True)
        whole, streamed = calling.invoke(QUESTION), reduce(add, calling.stream(QUESTION))
        assert whole.tool_calls and streamed.tool_calls  # type: ignore[attr-defined]
        tokens, others = (
            [each["token"] for each in answer.response_metadata["logprobs"]["content"]]
            for answer in (whole, streamed)
        )
        assert len(tokens) > 3
        assert tokens == others

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"logprobs": 5}, "logprobs must be True or False"),
            ({"top_logprobs": 5}, "needs logprobs=True"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be an int in 0..20"),
            ({"logprobs": True, "top_logprobs": 1.5}, "top_logprobs must be an int in 0..20"),
        ],
    )
    def test_bad_settings(self, chat: ChatRefrag, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(SamplingError, match=named):
            chat.invoke(QUESTION, **settings)
        with pytest.raises(SamplingError, match=named):
            RefragLLM(model=chat.model_name, **settings)


class TestTimeout:
    @pytest.fixture
    def steps(self, chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch) -> Steps:
        engine = load_checkpoint(chat.model_name, chat.device).generator.engine
        assert isinstance(engine, TransformersEngine)
        return Steps(engine, monkeypatch)

    async def test_ends_every_kind_of_answer(self, chat: ChatRefrag, steps: Steps) -> None:
        late = ChatRefrag(model=chat.model_name, timeout=0.05, max_tokens=200)
        llm = RefragLLM(model=chat.model_name, timeout=0.05, max_tokens=200)
        steps.hold(until=1)
        steps.allow(2)
        for model in (late, llm):
            with pytest.raises(AnswerTimeoutError):
                model.invoke(QUESTION)
            with pytest.raises(TimeoutError):
                await model.ainvoke(QUESTION)
            with pytest.raises(AnswerTimeoutError):
                list(model.stream(QUESTION))
            with pytest.raises(AnswerTimeoutError):
                async for _ in model.astream(QUESTION):
                    pass
        steps.allow(None)
        assert late.invoke(QUESTION, timeout=600, max_tokens=8).text == chat.invoke(QUESTION).text

    async def test_at_a_server(self, options: dict[str, Any]) -> None:
        with pytest.raises(AnswerTimeoutError):
            ChatRefrag(**options).invoke(QUESTION, timeout=1e-9)
        with pytest.raises(AnswerTimeoutError):
            await ChatRefrag(**options).ainvoke(QUESTION, timeout=1e-9)

    @pytest.mark.parametrize("name", ["timeout", "connect_timeout", "read_timeout"])
    def test_is_no_part_of_what_is_cached(self, chat: ChatRefrag, name: str) -> None:
        other = chat.model_copy(update={name: 5})
        assert other._identifying_params == chat._identifying_params

    @pytest.mark.parametrize("timeout", [0, -1, True, "5"])
    def test_bad_times(self, chat: ChatRefrag, timeout: Any) -> None:
        with pytest.raises(SamplingError, match="timeout must be a number of seconds"):
            chat.invoke(QUESTION, timeout=timeout)
