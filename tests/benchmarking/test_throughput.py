from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.benchmarking import throughput
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.benchmarking.throughput import measure_throughput
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.transformers_engine import TransformersEngine

LAYOUT = Layout((TextSegment(np.arange(1, 9)),))


def test_a_batch_that_does_not_fit_is_made_smaller(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, sizes = TransformersEngine.generate, []

    def limited(engine: Any, layouts: Sequence[Layout], params: Any) -> Any:
        sizes.append(len(layouts))
        if len(layouts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(engine, layouts, params)

    monkeypatch.setattr(TransformersEngine, "generate", limited)
    monkeypatch.setattr(throughput, "_estimate", lambda *_: 6)
    measured = measure_throughput(tiny_subject.at(4), LAYOUT, new_tokens=3, kv_bytes=1, largest=5)
    assert sizes == [1, 5, 1, 4, 1, 3]
    assert (measured.batch, measured.tokens) == (3, 3)
    assert measured.tokens_per_second > 0


def test_one_prompt_that_does_not_fit_is_an_error(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersEngine, "generate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        measure_throughput(tiny_subject.at(4), LAYOUT, new_tokens=1, kv_bytes=1, largest=5)
