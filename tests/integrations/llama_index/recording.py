"""LlamaIndex' instrumentation events, recorded."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent

__all__ = ["Recording"]


class _Handler(BaseEventHandler):
    seen: list[BaseEvent] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.seen.append(event)


class Recording:
    """Test classes with a fixture for events."""

    @pytest.fixture
    def events(self) -> Generator[list[BaseEvent]]:
        """Every instrumentation event of the test."""
        dispatcher = get_dispatcher()
        before, handler = list(dispatcher.event_handlers), _Handler()
        dispatcher.add_event_handler(handler)
        yield handler.seen
        dispatcher.event_handlers = before
