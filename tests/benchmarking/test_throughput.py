from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refrag_components.benchmarking import throughput
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.benchmarking.throughput import (
    Throughput,
    _largest,
    measure_throughput,
)
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.exceptions import AnswerTimeoutError

LAYOUT = Layout((TextSegment(np.arange(1, 9)),))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is given up because the machine is slow."""
    generate = TransformersEngine.generate

    def unlimited(engine: Any, layouts: Sequence[Layout], params: Any) -> Any:
        return generate(engine, layouts, replace(params, timeout=None))

    monkeypatch.setattr(TransformersEngine, "generate", unlimited)


@pytest.mark.usefixtures("patient")
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
    # Each after one prompt alone: one that leaves room, the first guess, and the search.
    assert sizes[1::2] == [1, 5, 4, 2, 3]
    assert measured.batch in (1, 3)
    assert measured.tokens == 3
    assert measured.tokens_per_second > 0


def test_one_prompt_that_does_not_fit_is_an_error(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersEngine, "generate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        measure_throughput(tiny_subject.at(4), LAYOUT, new_tokens=1, kv_bytes=1, largest=5)


def test_a_larger_batch_that_cannot_be_faster_is_given_up(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, sizes = TransformersEngine.generate, []

    def slow(engine: Any, layouts: Sequence[Layout], params: Any) -> Any:
        sizes.append(len(layouts))
        if params.timeout is not None:
            assert len(layouts) == 5
            raise AnswerTimeoutError
        return generate(engine, layouts, params)

    monkeypatch.setattr(TransformersEngine, "generate", slow)
    monkeypatch.setattr(throughput, "_estimate", lambda *_: 6)
    measured = measure_throughput(tiny_subject.at(4), LAYOUT, new_tokens=3, kv_bytes=1, largest=5)
    assert sizes == [1, 1, 1, 5]  # each after one prompt alone
    assert measured.batch == 1


@pytest.mark.parametrize(("first", "room", "most"), [(200, 200, 1), (200, 171, 5), (13, 11, 4)])
@pytest.mark.parametrize("room_left", [0, 1])
def test_the_largest_batch_is_found_in_a_few_tries(
    first: int, room: int, most: int, room_left: int
) -> None:
    tried: list[int] = []

    def measured(batch: int) -> Throughput | None:
        tried.append(batch)
        return Throughput(1.0, batch, 1.0) if batch <= room + room_left else None

    found = _largest(first, measured)
    assert 8 * (min(room + room_left, first) - found.batch) <= room
    assert found.batch <= room + room_left
    assert len(tried) <= most


def test_a_far_too_high_first_guess_ends_at_what_fits() -> None:
    tried: list[int] = []

    def measured(batch: int) -> Throughput | None:
        tried.append(batch)
        return Throughput(1.0, batch, 1.0) if batch <= 3 else None

    assert _largest(256, measured).batch == 3
    assert len(tried) < 12


@pytest.mark.usefixtures("patient")
def test_a_batch_that_did_not_fit_holds_no_memory_when_the_next_one_begins(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory that is full at some number of keys, wherever they are held."""
    held: list[weakref.ref[Tensor]] = []
    fitting: list[int] = []
    step = DecoderBatch.step

    def counted(batch: DecoderBatch, tokens: Tensor) -> None:
        keys = batch._layers[0].keys
        if not any(each() is keys for each in held):
            held.append(weakref.ref(keys))
        living = [each for found in held if (each := found()) is not None]
        if sum(len(each) for each in living) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fitting.append(len(keys))
        step(batch, tokens)

    monkeypatch.setattr(DecoderBatch, "step", counted)
    monkeypatch.setattr(throughput, "_estimate", lambda *_: 8)
    gc.disable()  # what is freed is freed by the measurement
    try:
        measured = measure_throughput(
            tiny_subject.at(4), LAYOUT, new_tokens=4, kv_bytes=1, largest=8
        )
    finally:
        gc.enable()
    assert measured.batch in (3, 4)
    assert max(fitting) == 4
