"""What belongs to one request of LlamaIndex: all that happens inside its outermost span."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler

from refrag_components.prompts.retrieved import Retrieved, begin_request

__all__ = ["retrieved_in_run"]


class _Request(BaseSpan):
    """The outermost span of a request, such as a query or a turn of a chat."""

    _retrieved: Retrieved = PrivateAttr(default_factory=Retrieved)
    _open: bool = PrivateAttr(default=True)


# Threads and tasks that the request starts inherit it. A context may outlive the request.
_request: ContextVar[_Request | None] = ContextVar("refrag_request", default=None)


class _Requests(BaseSpanHandler[_Request]):
    """Tells where requests begin and end; LlamaIndex calls it for every span."""

    @classmethod
    def class_name(cls) -> str:
        return "RefragRequests"

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> _Request | None:
        if retrieved_in_run() is not None:
            return None
        request = _Request(id_=id_, parent_id=parent_span_id)
        _request.set(request)
        begin_request(request._retrieved)
        return request

    def prepare_to_exit_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> _Request | None:
        request = self._ended(id_)
        if request is not None and isinstance(result, StreamingResponse | AsyncStreamingResponse):
            # Refining goes on while it is read; those calls are made by hand, as it were.
            request._retrieved.is_read = False
        return request

    def prepare_to_drop_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> _Request | None:
        return self._ended(id_)

    def _ended(self, id_: str) -> _Request | None:
        request = self.open_spans.get(id_)
        if request is not None:
            request._open = False
        return request


get_dispatcher().add_span_handler(_Requests())


def retrieved_in_run() -> Retrieved | None:
    """What the request inside which this is called has retrieved; None outside any request."""
    request = _request.get()
    return request._retrieved if request is not None and request._open else None
