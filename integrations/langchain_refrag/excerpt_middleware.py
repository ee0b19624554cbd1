"""Middleware for agents of any chat model: it reads excerpts of what tools and searches return."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor

from langchain_refrag.compressors import RefragDocumentCompressor
from langchain_refrag.turns import latest_question, with_passages

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:
    _MSG = (
        "RefragExcerptMiddleware needs the package langchain: "
        'pip install "refrag-components[langchain-agents]"'
    )
    raise ImportError(_MSG) from error

__all__ = ["RefragExcerptMiddleware"]

_LEFT_OUT = "[…]"
_PLACE = "refrag_place"


class RefragExcerptMiddleware(AgentMiddleware[Any, Any, Any]):
    """Cuts down what an agent's model reads of tools and searches, for any model that reads text.

    Each result of a tool is cut down to what the question before it needs. So it stays the same
    from call to call, and what a provider remembers of the conversation's beginning goes on being
    valid. With a ``retriever`` the model also reads excerpts of passages for the latest question,
    which are put before that question in this call only.

    Short results, errors, JSON and results with other things than text are left as they are. The
    agent's state keeps every result whole.

    Example:
        ```python
        agent = create_agent(
            "openai:gpt-4o",
            tools,
            middleware=[
                RefragExcerptMiddleware(RefragDocumentCompressor(budget=400, tokens_of="gpt-4o"))
            ],
        )
        ```

    Args:
        compressor: Its budget is for one result, and for all passages of a search; by default a
            ``RefragDocumentCompressor`` with a quarter of the tokens. Any other compressor of
            LangChain fits, too.
        retriever: Any retriever; queried with the latest human message before each call of the
            model.
        shortest: Results with fewer characters are left as they are.
    """

    def __init__(
        self,
        compressor: BaseDocumentCompressor | None = None,
        *,
        retriever: BaseRetriever | None = None,
        shortest: int = 1000,
    ) -> None:
        super().__init__()
        self.tools = []
        self.compressor = RefragDocumentCompressor() if compressor is None else compressor
        self.retriever = retriever
        self.shortest = shortest

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Takes excerpts before a call of the model."""
        position = latest_question(request.messages)
        documents: list[Document] = []
        if self.retriever is not None and position is not None:
            documents = self.retriever.invoke(request.messages[position].text)
        return handler(request.override(messages=self._read(request.messages, documents)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Takes excerpts before a call of the model."""
        position = latest_question(request.messages)
        documents: list[Document] = []
        if self.retriever is not None and position is not None:
            documents = await self.retriever.ainvoke(request.messages[position].text)
        read = await run_in_executor(None, self._read, request.messages, documents)
        return await handler(request.override(messages=read))

    def _read(
        self, messages: Sequence[AnyMessage], documents: Sequence[Document]
    ) -> list[AnyMessage]:
        """What the model reads instead of the messages."""
        read: list[AnyMessage] = []
        question = ""
        for message in messages:
            if isinstance(message, HumanMessage):
                question = message.text
            if isinstance(message, ToolMessage) and question.strip():
                message = self._cut(message, question)
            read.append(message)
        position = latest_question(messages)
        if position is None or not documents:
            return read
        question = messages[position].text
        if question.strip():
            documents = self.compressor.compress_documents(documents, question)
        return with_passages(read, position, [d.page_content for d in documents])

    def _cut(self, message: ToolMessage, question: str) -> ToolMessage:
        text = str(message.text)
        if (
            len(text) < self.shortest
            or message.status == "error"
            or not _is_text(message.content)
            or _is_json(text)
        ):
            return message
        passages = _passages(message, text)
        documents = [
            Document(page_content=passage, metadata={_PLACE: i})
            for i, passage in enumerate(passages)
        ]
        found = self.compressor.compress_documents(documents, question)
        excerpts = {each.metadata.get(_PLACE): each.page_content for each in found}
        for i, passage in enumerate(passages):
            text = text.replace(passage, excerpts.get(i, _LEFT_OUT), 1)
        return message.model_copy(update={"content": text})


def _passages(message: ToolMessage, text: str) -> list[str]:
    """The passages that a retriever's tool shows; all of the text if there are none."""
    artifact = message.artifact if isinstance(message.artifact, list) else []
    documents = (each.page_content for each in artifact if isinstance(each, Document))
    return [d for d in dict.fromkeys(documents) if d.strip() and d in text] or [text]


def _is_text(content: str | list[Any]) -> bool:
    return isinstance(content, str) or all(
        isinstance(block, str) or block.get("type") == "text" for block in content
    )


def _is_json(text: str) -> bool:
    """Whether it is an object or a list, which a cut would break."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
