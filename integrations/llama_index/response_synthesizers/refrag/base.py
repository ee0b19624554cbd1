"""One prompt with all passages, and a report with the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.synthesis import (
    GetResponseEndEvent,
    GetResponseStartEvent,
)
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryType
from llama_index.core.types import RESPONSE_TEXT_TYPE

from llama_index.llms.refrag import RefragLLM
from llama_index.postprocessor.refrag.nodes import prepared_nodes
from refrag_components.stores.common.base import ChunkStore

__all__ = ["RefragSynthesizer"]

dispatcher = get_dispatcher(__name__)


class RefragSynthesizer(BaseSynthesizer):
    """Puts all passages into one prompt and reports what became of them.

    The stock synthesizers also compress with ``RefragLLM``, once a ``RefragNodePostprocessor`` has
    seen the nodes. This one needs no postprocessor, never cuts a passage in two, lets the policy
    compare chunks with the question alone instead of with the whole prompt, and puts the report
    into ``response.metadata["refrag"]``; for a stream, once it has ended.

    Args:
        llm: ``RefragLLM``, or any other, which reads the passages as text and reports nothing;
            ``Settings.llm`` if None.
        store: Where chunk vectors of the passages are kept; the LLM's store if None.
        text_qa_template: Prompt with ``{context_str}`` and ``{query_str}``.
        streaming: Whether to stream the answer.
        callback_manager: As for every synthesizer.

    Example:
        ```python
        engine = index.as_query_engine(response_synthesizer=RefragSynthesizer(RefragLLM()))
        response = engine.query("When was the harbour dug?")
        print(response, response.metadata["refrag"]["rate"])
        ```
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        store: ChunkStore | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(llm=llm, streaming=streaming, callback_manager=callback_manager)
        self._store = store
        self._text_qa_template = text_qa_template or DEFAULT_TEXT_QA_PROMPT_SEL

    def _get_prompts(self) -> PromptDictType:
        return {"text_qa_template": self._text_qa_template}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._text_qa_template = prompts.get("text_qa_template", self._text_qa_template)

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answers from nodes, see ``BaseSynthesizer.synthesize``."""
        report: dict[str, Any] = {}
        response = super().synthesize(
            query,
            self._noted(query, nodes),
            additional_source_nodes,
            report=report,
            **response_kwargs,
        )
        return self._with_report(response, report)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """As ``synthesize``, with the LLM's async methods."""
        report: dict[str, Any] = {}
        response = await super().asynthesize(
            query,
            self._noted(query, nodes),
            additional_source_nodes,
            report=report,
            **response_kwargs,
        )
        return self._with_report(response, report)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        report: dict[str, Any] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Answers from texts.

        Args:
            query_str: The question.
            text_chunks: The passages, with or without metadata above them.
            report: Filled with what happened.
            **response_kwargs: Variables of the template.
        """
        with _response_events(query_str, text_chunks):
            values = {**response_kwargs, "context_str": _joined(text_chunks)}
            return self._answer(query_str, {**values, "query_str": query_str}, report)

    def _answer(
        self, query_str: str, values: dict[str, Any], report: dict[str, Any] | None
    ) -> RESPONSE_TEXT_TYPE:
        if not isinstance(self._llm, RefragLLM):
            if self._streaming:
                return self._llm.stream(self._text_qa_template, **values)
            return self._llm.predict(self._text_qa_template, **values) or self._empty_response
        messages = self._messages(self._llm, values)
        if self._streaming:
            return _texts(self._llm.stream_chat(messages, question=query_str), report)
        response = self._llm.chat(messages, question=query_str)
        return _text(response, report) or self._empty_response

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        report: dict[str, Any] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """As ``get_response``, with the LLM's async methods."""
        with _response_events(query_str, text_chunks):
            values = {**response_kwargs, "context_str": _joined(text_chunks)}
            return await self._aanswer(query_str, {**values, "query_str": query_str}, report)

    async def _aanswer(
        self, query_str: str, values: dict[str, Any], report: dict[str, Any] | None
    ) -> RESPONSE_TEXT_TYPE:
        if not isinstance(self._llm, RefragLLM):
            if self._streaming:
                return await self._llm.astream(self._text_qa_template, **values)
            return await self._llm.apredict(self._text_qa_template, **values) or (
                self._empty_response
            )
        messages = self._messages(self._llm, values)
        if self._streaming:
            return _atexts(await self._llm.astream_chat(messages, question=query_str), report)
        response = await self._llm.achat(messages, question=query_str)
        return _text(response, report) or self._empty_response

    def _noted(self, query: QueryType, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        query = query if isinstance(query, str) else query.query_str
        return prepared_nodes(query, nodes, store=self._store, model=None, device=None)

    def _messages(self, llm: RefragLLM, values: dict[str, Any]) -> list[ChatMessage]:
        return llm._extend_messages(self._text_qa_template.format_messages(llm=llm, **values))

    def _with_report(self, response: RESPONSE_TYPE, report: dict[str, Any]) -> RESPONSE_TYPE:
        if isinstance(self._llm, RefragLLM) and response.metadata is not None:
            response.metadata["refrag"] = report  # a stream fills it later
        return response


@contextmanager
def _response_events(query_str: str, text_chunks: Sequence[str]) -> Iterator[None]:
    """Tells LlamaIndex' instrumentation, as its own synthesizers do."""
    dispatcher.event(GetResponseStartEvent(query_str=query_str, text_chunks=list(text_chunks)))
    yield
    dispatcher.event(GetResponseEndEvent())


def _joined(text_chunks: Sequence[str]) -> str:
    return "\n\n".join(text.strip() for text in text_chunks)


def _text(response: ChatResponse, report: dict[str, Any] | None) -> str:
    if report is not None and response.raw is not None:
        report.update(response.raw["refrag"])
    return response.message.content or ""


def _texts(
    responses: Generator[ChatResponse, None, None], report: dict[str, Any] | None
) -> Generator[str, None, None]:
    for response in responses:
        _text(response, report)
        yield response.delta or ""


async def _atexts(
    responses: AsyncGenerator[ChatResponse, None], report: dict[str, Any] | None
) -> AsyncGenerator[str, None]:
    async for response in responses:
        _text(response, report)
        yield response.delta or ""
