"""What belongs to one run of LangChain: its retrievers and its models share one object.

The steps of a chain, its threads and its tasks, have no context variables in common, but LangChain
hands the callback handlers of a run on to all that runs inside it. One that does nothing is
therefore the way from a retriever to a model. It ends with the run.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ensure_config
from langchain_core.tracers.context import register_configure_hook

from refrag_components.prompts.retrieved import Retrieved

__all__ = ["retrieved_in"]


class _RetrievedInRun(BaseCallbackHandler):
    """Carries what a run has retrieved; no event is of interest to it."""

    run_inline = True

    def __init__(self) -> None:
        self.retrieved = Retrieved()

    @property
    def ignore_agent(self) -> bool:
        return True

    @property
    def ignore_chain(self) -> bool:
        return True

    @property
    def ignore_chat_model(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True

    @property
    def ignore_llm(self) -> bool:
        return True

    @property
    def ignore_retriever(self) -> bool:
        return True

    @property
    def ignore_retry(self) -> bool:
        return True


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
