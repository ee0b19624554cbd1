"""Middleware for agents made by ``langchain.agents.create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever

from langchain_refrag.documents import RefragDocument
from langchain_refrag.retrievers import RefragRetriever
from langchain_refrag.runs import retrieved_in
from refrag_components.prompts.matching import PassageFinder
from refrag_components.prompts.resolver import document_text
from refrag_components.stores.base import ChunkStore

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:
    _MSG = (
        "RefragMiddleware needs the package langchain: "
        'pip install "refrag-components[langchain-agents]"'
    )
    raise ImportError(_MSG) from error

__all__ = ["RefragMiddleware"]


class RefragMiddleware(AgentMiddleware[Any, Any, Any]):
    """Compresses what an agent reads again and again.

    Results of tools enter the model as chunk embeddings, whatever tool they come from. With a
    ``retriever`` the agent also reads passages for the latest question, without a tool, so that
    decoders that cannot call tools can be agents too. These passages precede the question in this
    call of the model only and are not part of the agent's state.

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
    """

    def __init__(
        self,
        retriever: BaseRetriever | None = None,
        *,
        store: ChunkStore | None = None,
        history: bool = False,
    ) -> None:
        super().__init__()
        self.tools = []
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
        position = _latest_question(request.messages)
        messages = self._compressible(request.messages, position)
        if self.retriever is not None and position is not None:
            documents = self.retriever.invoke(messages[position].text)
            messages = _with_passages(messages, position, documents)
        return handler(request.override(messages=messages))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Compresses and retrieves before a call of the model."""
        position = _latest_question(request.messages)
        messages = self._compressible(request.messages, position)
        if self.retriever is not None and position is not None:
            documents = await self.retriever.ainvoke(messages[position].text)
            messages = _with_passages(messages, position, documents)
        return await handler(request.override(messages=messages))

    def _compressible(
        self, messages: Sequence[AnyMessage], position: int | None
    ) -> list[AnyMessage]:
        """The messages, with what is to be compressed of each attached to it as a document."""
        retrieved = retrieved_in(None)
        searches = () if retrieved is None else retrieved.retrievals
        passages = PassageFinder(text for search in searches for text in search.passages)
        return [
            self._as_document(message)
            if (isinstance(message, ToolMessage) or (self.history and index < (position or 0)))
            # A text that holds passages is compressed passage by passage.
            and not (_carries_documents(message) or passages.find(message.text))
            else message
            for index, message in enumerate(messages)
        ]

    def _as_document(self, message: AnyMessage) -> AnyMessage:
        document = RefragDocument(page_content=message.text, store=self.store)
        attached = {**message.additional_kwargs, "documents": [document]}
        return message.model_copy(update={"additional_kwargs": attached})


def _carries_documents(message: BaseMessage) -> bool:
    """Whether passages were handed over with a text; ``ChatRefrag`` finds those itself."""
    if message.additional_kwargs.get("documents"):
        return True
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    if not isinstance(artifact, Sequence) or isinstance(artifact, str):
        return False
    try:
        return any(isinstance(item, Document) or document_text(item) for item in artifact)
    except TypeError:
        return False


def _latest_question(messages: Sequence[BaseMessage]) -> int | None:
    human = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return human[-1] if human else None


def _with_passages(
    messages: Sequence[Any], position: int, documents: Sequence[Document]
) -> list[Any]:
    """The messages with passages before the question, in the message at ``position``."""
    question = messages[position]
    passages = [{"type": "text", "text": f"{document.page_content}\n\n"} for document in documents]
    content = question.content
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    with_passages = question.model_copy(update={"content": [*passages, *blocks]})
    return [*messages[:position], with_passages, *messages[position + 1 :]]
