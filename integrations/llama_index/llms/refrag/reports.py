"""Reports of answers that engines do not hand on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent

__all__ = ["collect_reports"]


class _ReportCollector(BaseEventHandler):
    _reports: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "RefragReportCollector"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            raw = getattr(event.response, "raw", None)  # a stream that was cut off has no response
            if isinstance(raw, dict) and "refrag" in raw:
                self._reports.append(raw["refrag"])


@contextmanager
def collect_reports() -> Iterator[list[dict[str, Any]]]:
    """Collects what ``RefragLLM`` reports while an engine uses it.

    Engines keep only the text of an LLM's responses; this listens to LlamaIndex' events. It
    collects from every answer of the process, including other threads. Streams report when they
    end.

    Example:
        ```python
        with collect_reports() as reports:
            response = engine.query("When was the harbour dug?")
        print(reports[-1]["rate"])
        ```

    Yields:
        A list with one dict per answer, in order, as in ``response.raw["refrag"]``; it grows inside
        the block.
    """
    dispatcher = get_dispatcher()
    collector = _ReportCollector()
    dispatcher.add_event_handler(collector)
    try:
        yield collector._reports
    finally:
        dispatcher.event_handlers = [
            handler for handler in dispatcher.event_handlers if handler is not collector
        ]
