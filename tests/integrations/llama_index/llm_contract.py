"""What LlamaIndex expects of an LLM, as tests; see ``contract.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate

from tests.integrations.guards import needing_a_free_loop
from tests.integrations.llama_index.recording import Recording

__all__ = ["LLMContract", "check_stream", "drain"]

PROMPT = "How many ships came today?"
USER = MessageRole.USER
CONVERSATION = [
    ChatMessage(role=MessageRole.SYSTEM, content="You are a harbour master."),
    ChatMessage(role=USER, content="Who are you?"),
    ChatMessage(role=MessageRole.ASSISTANT, content="The harbour master."),
    ChatMessage(role=USER, content="How many ships came today?"),
]


class LLMContract(Recording):
    """Contract of an ``LLM``."""

    @pytest.fixture
    def llm(self) -> LLM:
        """The LLM, deterministic, with short answers."""
        raise NotImplementedError

    @pytest.fixture
    def work(self) -> tuple[Any, str]:
        """What takes long in each of its calls: a function, by its owner and its name."""
        raise NotImplementedError

    def test_metadata(self, llm: LLM) -> None:
        metadata = llm.metadata
        assert metadata.context_window > metadata.num_output > 0
        assert metadata.model_name not in ("", "unknown")
        assert llm.class_name() not in ("", "base_component", "custom_llm")

    def test_round_trip(self, llm: LLM) -> None:
        restored = type(llm).from_dict(llm.to_dict())
        assert restored.metadata == llm.metadata
        assert restored.complete(PROMPT).text == llm.complete(PROMPT).text

    def test_complete(self, llm: LLM) -> None:
        response = llm.complete(PROMPT)
        assert response.text
        assert str(response) == response.text
        assert llm.complete(PROMPT).text == response.text

    def test_chat(self, llm: LLM) -> None:
        before = [message.model_copy(deep=True) for message in CONVERSATION]
        response = llm.chat(CONVERSATION)
        assert response.message.role == MessageRole.ASSISTANT
        assert response.message.content
        assert before == CONVERSATION, "the caller's messages were changed"

    def test_unusual_conversations(self, llm: LLM) -> None:
        twice = [ChatMessage(role=USER, content="Good day."), ChatMessage(role=USER, content="?")]
        for messages in (twice, CONVERSATION[:1], [*CONVERSATION, CONVERSATION[2]]):
            assert isinstance(llm.chat(messages).message.content, str)

    def test_stream_complete(self, llm: LLM) -> None:
        pieces = list(llm.stream_complete(PROMPT))
        check_stream([(piece.text, piece.delta) for piece in pieces], llm.complete(PROMPT).text)

    def test_stream_chat(self, llm: LLM) -> None:
        pieces = list(llm.stream_chat(CONVERSATION))
        whole = llm.chat(CONVERSATION).message.content
        check_stream([(piece.message.content, piece.delta) for piece in pieces], whole)
        assert {piece.message.role for piece in pieces} == {MessageRole.ASSISTANT}

    async def test_async_is_sync(self, llm: LLM) -> None:
        assert (await llm.acomplete(PROMPT)).text == llm.complete(PROMPT).text
        chat = await llm.achat(CONVERSATION)
        assert chat.message.content == llm.chat(CONVERSATION).message.content

    async def test_async_streams(self, llm: LLM) -> None:
        completed = [piece async for piece in await llm.astream_complete(PROMPT)]
        whole = llm.complete(PROMPT).text
        check_stream([(piece.text, piece.delta) for piece in completed], whole)
        chatted = [piece async for piece in await llm.astream_chat(CONVERSATION)]
        answer = llm.chat(CONVERSATION).message.content
        check_stream([(piece.message.content, piece.delta) for piece in chatted], answer)

    async def test_concurrent_calls(self, llm: LLM) -> None:
        prompts = [f"{PROMPT} Answer number {i}." for i in range(6)]
        expected = [llm.complete(prompt).text for prompt in prompts]
        answers = await asyncio.gather(*[llm.acomplete(prompt) for prompt in prompts])
        assert [answer.text for answer in answers] == expected

    async def test_the_event_loop_is_not_blocked(
        self, llm: LLM, work: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An async method must not do its work on the event loop."""
        llm.complete(PROMPT)  # what is slow only once does not count
        owner, name = work
        needing = needing_a_free_loop(getattr(owner, name))
        ran: list[str] = []

        def watched(*arguments: Any, **options: Any) -> Any:
            ran.append(name)
            return needing(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)
        completed, chatted = llm.astream_complete(PROMPT), llm.astream_chat(CONVERSATION)
        for call in (
            *(llm.acomplete(PROMPT), llm.achat(CONVERSATION)),
            *(drain(completed), drain(chatted)),
        ):
            ran.clear()
            await call
            assert ran

    def test_abandoned_stream(self, llm: LLM) -> None:
        stream = llm.stream_complete(PROMPT)
        next(stream)
        stream.close()
        assert llm.complete(PROMPT).text

    def test_predict(self, llm: LLM) -> None:
        """Templates with braces in their values reach the LLM; ``stream`` yields the deltas."""
        chat = ChatPromptTemplate(message_templates=[ChatMessage(role=USER, content="Say {it}.")])
        for template in (PromptTemplate("Say {it}."), chat):
            whole = llm.predict(template, it="{braces}")
            assert isinstance(whole, str)
            assert "".join(llm.stream(template, it="{braces}")) == whole

    async def test_apredict(self, llm: LLM) -> None:
        template = PromptTemplate("Say {it}.")
        whole = llm.predict(template, it="it")
        assert await llm.apredict(template, it="it") == whole
        assert "".join([token async for token in await llm.astream(template, it="it")]) == whole

    async def test_events(self, llm: LLM, events: list[BaseEvent]) -> None:
        """Each call is one start and one end, the end with the whole response."""
        llm.complete(PROMPT)
        await llm.acomplete(PROMPT)
        list(llm.stream_complete(PROMPT))
        await drain(llm.astream_complete(PROMPT))
        completions = [event for event in events if isinstance(event, LLMCompletionEndEvent)]
        assert [event.response.text for event in completions] == [llm.complete(PROMPT).text] * 4
        llm.chat(CONVERSATION)
        await llm.achat(CONVERSATION)
        list(llm.stream_chat(CONVERSATION))
        await drain(llm.astream_chat(CONVERSATION))
        chats = [event for event in events if isinstance(event, LLMChatEndEvent)]
        contents = [event.response.message.content for event in chats if event.response]
        assert contents == [llm.chat(CONVERSATION).message.content] * 4
        for start, n in ((LLMCompletionStartEvent, 5), (LLMChatStartEvent, 5)):
            assert sum(isinstance(event, start) for event in events) == n

    def test_callbacks(self, llm: LLM) -> None:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        llm.callback_manager = CallbackManager([debug])
        llm.complete(PROMPT)
        list(llm.stream_chat(CONVERSATION))
        pairs = debug.get_event_pairs(CBEventType.LLM)
        assert [len(pair) for pair in pairs] == [2, 2]


def check_stream(pieces: Sequence[tuple[str | None, str | None]], whole: str | None) -> None:
    """Texts grow by their deltas up to what the plain method returns."""
    text = ""
    for so_far, delta in pieces:
        text += delta or ""
        assert (so_far or "") == text
    assert text == whole


async def drain(stream: Awaitable[AsyncGenerator[Any]]) -> None:
    """Reads an async stream to its end."""
    async for _ in await stream:
        pass
