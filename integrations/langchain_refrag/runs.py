"""What belongs to one run of LangChain: its retrievers and its models share one object.

The steps of a chain, its threads and its tasks, have no context variables in common, but LangChain
hands the callback handlers of a run on to all that runs inside it. A handler is therefore the way
from a retriever to a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import ensure_config
from langchain_core.tracers.context import register_configure_hook

from langchain_refrag.documents import carried_stores
from refrag_components.prompts.retrieved import Retrieval, Retrieved, begin_request
from refrag_components.stores.common.base import ChunkStore

__all__ = ["note_documents", "retrieved_in"]


class _RetrievedInRun(BaseCallbackHandler):
    """Carries what a run and all runs inside it have retrieved."""

    run_inline = True
    ignore_chat_model = True
    ignore_custom_event = True
    ignore_llm = True

    def __init__(self) -> None:
        self.retrieved = Retrieved()
        self._begun = False

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        self._begin()

    def on_retriever_start(self, *_: Any, **__: Any) -> None:
        self._begin()

    def on_tool_start(self, *_: Any, **__: Any) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._begun:  # the outermost run, which starts in its caller's thread and task
            self._begun = True
            begin_request(self.retrieved)


# LangChain looks at this variable where a run begins and, unless it is None, adds its value or, if
# that is false, a new handler. Runs inside another have inherited one and get no second.
_every_run: ContextVar[Any] = ContextVar("refrag_every_run", default=False)
register_configure_hook(_every_run, inheritable=True, handle_class=_RetrievedInRun)


def retrieved_in(callbacks: object) -> Retrieved | None:
    """What has been retrieved in the run to which callbacks belong.

    Args:
        callbacks: A run manager or callback manager; None for the run inside which this is called,
            because LangChain does not hand a run manager to models that stream.
    """
    if callbacks is None:
        callbacks = ensure_config().get("callbacks")
    for handler in getattr(callbacks, "handlers", ()):
        if isinstance(handler, _RetrievedInRun):
            return handler.retrieved
    return None


def note_documents(
    query: object, documents: Sequence[Document], store: ChunkStore | None, callbacks: object
) -> None:
    """Notes what was retrieved for the models of a run.

    Args:
        query: What was searched for; anything but a string counts as unknown.
        documents: What was found.
        store: Where the chunk vectors are kept of those that do not carry them, if anywhere.
        callbacks: As for ``retrieved_in``.
    """
    retrieved = retrieved_in(callbacks)
    if retrieved is not None:
        texts = (document.page_content for document in documents)
        asked = query if isinstance(query, str) else ""
        retrieved.add(Retrieval.of(asked, texts, store, carried_stores(documents)))
