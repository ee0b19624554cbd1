"""When what begins and ends between a request and its first token, in all threads."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from unittest.mock import patch

from refrag_components.benchmarking.timing import synchronise
from refrag_components.engines import lanes
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.row import Row
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.static_cache import StaticCache
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.preparing import Preparer
from refrag_components.generation.requests import Request

__all__ = ["timeline"]

_ANSWERS = 5
_WARM_UP = 3
_PARAMS = SamplingParams(max_tokens=17)  # as rows of latency

#: Whose calls are timed, by what they are; on a GPU most of them end before the device does.
_CALLS: dict[str, tuple[Any, str]] = {
    "preparation": (Preparer, "prepare"),
    "  passages from the store": (PassageLoader, "load"),
    "  texts, tokenised": (Preparer, "_spans"),
    "  layout": (Preparer, "_lay_out"),
    "handed to the thread that decodes": (TransformersEngine, "_submit"),
    "in the thread that decodes": (lanes.Lanes, "start"),
    "embedding, started": (lanes, "embed_layouts"),
    "prefill, started": (DecoderBatch, "__init__"),
    "  a static cache": (StaticCaches, "take"),
    "  the prompt in its place, and its graph": (StaticCache, "begin"),
    "sampling, started": (lanes, "_sample"),
    "next step, started": (DecoderBatch, "step"),
    "token on the host, and its text": (Row, "take"),
    "end of the answer before": (StaticCache, "clear"),
}


def timeline(generator: RefragGenerator, request: Request) -> str:
    """A line for each call, with the medians of several answers, one right after another.

    Args:
        generator: Answers with transformers.
        request: The request.
    """
    windows = []
    with _watched() as seen:
        for _ in range(_WARM_UP + _ANSWERS):
            synchronise(generator.model.device)
            started = time.perf_counter()
            with closing(generator.stream(request, _PARAMS)) as deltas:
                next(deltas)
                windows.append((started, time.perf_counter()))
                for _ in deltas:
                    pass
    spans: dict[str, list[tuple[float, float]]] = {}
    for started, first in windows[_WARM_UP:]:
        spans.setdefault("first token", []).append((first - started,) * 2)
        within: dict[str, tuple[float, float]] = {}
        for name, begun, ended in sorted(seen, key=lambda each: each[1]):
            if started <= begun < first:
                within.setdefault(name, (begun - started, ended - started))
        for name, span in within.items():
            spans.setdefault(name, []).append(span)
    medians = {
        name: [1000 * statistics.median(times) for times in zip(*found, strict=True)]
        for name, found in spans.items()
    }
    lines = [
        f"{begun:8.2f} to {ended:8.2f}  {name}"
        for name, (begun, ended) in sorted(medians.items(), key=lambda each: each[1])
    ]
    return "\n".join([f"{'ms':>8}    {'ms':>8}", *lines])


@contextmanager
def _watched() -> Iterator[list[tuple[str, float, float]]]:
    """Notes each call with its begin and end."""
    seen: list[tuple[str, float, float]] = []
    lock = threading.Lock()

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*args, **named)
            finally:
                with lock:
                    seen.append((name, begun, time.perf_counter()))

        return timed

    with ExitStack() as stack:
        for name, (owner, attribute) in _CALLS.items():
            call = noted(name, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, call))
        yield seen
