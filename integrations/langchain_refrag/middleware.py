"""Middleware for agents made by ``langchain.agents.create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, StructuredTool

from langchain_refrag.documents import RefragDocument
from langchain_refrag.messages import LITERAL
from langchain_refrag.retrievers import RefragRetriever
from langchain_refrag.runs import retrieved_in
from langchain_refrag.turns import carries_documents, latest_question, with_passages
from refrag_components.prompts.matching import PassageFinder
from refrag_components.stores.common.base import ChunkStore

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.tools import ToolRuntime
except ImportError as error:
    _MSG = (
        "RefragMiddleware needs the package langchain: "
        'pip install "refrag-components[langchain-agents]"'
    )
    raise ImportError(_MSG) from error

__all__ = ["EXPAND", "RefragMiddleware"]

#: The tool with which a model asks for the text of what it reads as chunk embeddings.
EXPAND = "context_expand"

_EXPAND_HELP = (
    "Shows the whole text of passages and tool results, which you see in part or in a compressed "
    "form after their number in brackets, such as [2]. Call it with the numbers of those that you "
    "need word for word, before you answer with names, figures or quotations that you are not "
    "sure of."
)


class RefragMiddleware(AgentMiddleware[Any, Any, Any]):
    """Compresses what an agent reads again and again.

    Of results of tools the model reads what its policy picks, whatever tool they come from. With a
    ``retriever`` the agent also reads passages for the latest question, without a tool, so that
    decoders that cannot call tools can be agents too. These passages precede the question in this
    call of the model only and are not part of the agent's state.

    With ``expand`` the model itself may ask to see more: passages and results get numbers, and the
    tool ``context_expand`` shows the text of those that it names, as tokens. What the retriever
    found is searched for again then, so it should find the same again.

    Messages keep their text, so any other model can still read them, and what is compressed of them
    concerns this call alone.

    Example:
        ```python
        agent = create_agent(
            ChatRefrag(model="refrag-smollm2-135m"),
            middleware=[RefragMiddleware(retriever=retriever, history=True)],
        )
        ```

    Args:
        retriever: Any retriever; queried with the latest human message before each call of the
            model.
        store: Where all these chunk vectors are kept; the model's store if None. Passages of a
            ``RefragRetriever`` are kept in the store of that retriever instead.
        history: Whether to compress all turns before the latest human message, too.
        expand: Whether to give the model that tool; for decoders that call tools.
    """

    def __init__(
        self,
        retriever: BaseRetriever | None = None,
        *,
        store: ChunkStore | None = None,
        history: bool = False,
        expand: bool = False,
    ) -> None:
        super().__init__()
        self.tools = [self._expanding()] if expand else []
        self.store = store
        self.history = history
        self.retriever = retriever
        if retriever is not None and not isinstance(retriever, RefragRetriever):
            self.retriever = RefragRetriever(retriever=retriever, store=store)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Compresses and retrieves before a call of the model."""
        position = latest_question(request.messages)
        messages = self._compressible(request.messages, position)
        documents: list[Document] = []
        if self.retriever is not None and position is not None:
            documents = self.retriever.invoke(messages[position].text)
        return handler(request.override(messages=self._with(messages, position, documents)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Compresses and retrieves before a call of the model."""
        position = latest_question(request.messages)
        messages = self._compressible(request.messages, position)
        documents: list[Document] = []
        if self.retriever is not None and position is not None:
            documents = await self.retriever.ainvoke(messages[position].text)
        return await handler(request.override(messages=self._with(messages, position, documents)))

    def _compressible(
        self, messages: Sequence[AnyMessage], position: int | None
    ) -> list[AnyMessage]:
        """The messages, with what is to be compressed of each attached to it as a document."""
        retrieved = retrieved_in(None)
        searches = () if retrieved is None else retrieved.retrievals
        passages = PassageFinder(text for search in searches for text in search.passages)
        return [
            _literal(message)
            if _shows_text(message)
            else self._as_document(message)
            if (isinstance(message, ToolMessage) or (self.history and index < (position or 0)))
            # A text that holds passages is compressed passage by passage.
            and not (carries_documents(message) or passages.find(message.text))
            else message
            for index, message in enumerate(messages)
        ]

    def _with(
        self, messages: list[AnyMessage], position: int | None, documents: Sequence[Document]
    ) -> list[AnyMessage]:
        """The messages with passages before the question, all numbered if they can be expanded."""
        passages = [document.page_content for document in documents]
        if self.tools:
            results = [i for i, message in enumerate(messages) if _is_result(message)]
            messages = list(messages)
            for number, index in enumerate(results, start=len(passages) + 1):
                messages[index] = _numbered(messages[index], number)
            passages = [f"[{number}] {text}" for number, text in enumerate(passages, start=1)]
        if position is None or not passages:
            return messages
        return with_passages(messages, position, passages)

    def _expanding(self) -> BaseTool:
        """The tool with which the model asks for text."""

        def question(runtime: ToolRuntime) -> str | None:
            messages = runtime.state["messages"]
            position = latest_question(messages)
            asks = self.retriever is not None and position is not None
            return messages[position].text if asks else None

        def shown(runtime: ToolRuntime, documents: Sequence[Document], numbers: list[int]) -> str:
            texts = [document.page_content for document in documents]
            texts += [each.text for each in runtime.state["messages"] if _is_result(each)]
            wanted = dict.fromkeys(numbers)
            found = [f"[{n}] {texts[n - 1]}" for n in wanted if 1 <= n <= len(texts)]
            if lost := [str(n) for n in wanted if not 1 <= n <= len(texts)]:
                found.append(f"There is no number {', '.join(lost)}.")
            return "\n\n".join(found) or "Name the numbers of what is to be shown."

        def expand(numbers: list[int], runtime: ToolRuntime) -> str:
            asked = question(runtime)
            documents = (
                [] if asked is None or self.retriever is None else self.retriever.invoke(asked)
            )
            return shown(runtime, documents, numbers)

        async def aexpand(numbers: list[int], runtime: ToolRuntime) -> str:
            asked = question(runtime)
            if asked is None or self.retriever is None:
                return shown(runtime, [], numbers)
            return shown(runtime, await self.retriever.ainvoke(asked), numbers)

        return StructuredTool.from_function(
            expand, aexpand, name=EXPAND, description=_EXPAND_HELP, infer_schema=True
        )

    def _as_document(self, message: AnyMessage) -> AnyMessage:
        document = RefragDocument(page_content=message.text, store=self.store)
        attached = {**message.additional_kwargs, "documents": [document]}
        return message.model_copy(update={"additional_kwargs": attached})


def _shows_text(message: AnyMessage) -> bool:
    return isinstance(message, ToolMessage) and message.name == EXPAND


def _is_result(message: AnyMessage) -> bool:
    return isinstance(message, ToolMessage) and not _shows_text(message)


def _literal(message: AnyMessage) -> AnyMessage:
    marked = {**message.additional_kwargs, LITERAL: True}
    return message.model_copy(update={"additional_kwargs": marked})


def _numbered(message: AnyMessage, number: int) -> AnyMessage:
    content = message.content
    blocks = [content] if isinstance(content, str) else content
    first = {"type": "text", "text": f"[{number}] "}
    rest = [{"type": "text", "text": b} if isinstance(b, str) else b for b in blocks]
    return message.model_copy(update={"content": [first, *rest]})
