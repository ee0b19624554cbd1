"""Where PyTorch would make a plan for each shape it is kept from it, and only there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.static_cache import StaticCache
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.engines.unplanned_attention import LONGEST_UNPLANNED, unplanned_attention
from refrag_components.modeling import RefragModel
from refrag_components.modeling.decoder_call import DecoderCall
from tests.engines.layouts import prompt
from tests.tiny import TEXT


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def plans() -> bool:
    found: bool = torch.backends.cuda.cudnn_sdp_enabled()
    return found


def test_short_prompts_and_steps_go_without() -> None:
    with unplanned_attention(1):
        assert not plans()
    assert plans()
    with unplanned_attention(LONGEST_UNPLANNED + 1):
        assert plans()


def test_what_is_not_allowed_stays_so() -> None:
    torch.backends.cuda.enable_cudnn_sdp(False)
    with unplanned_attention(1):
        pass
    assert not plans()


def test_the_last_thread_restores_what_the_first_has_found() -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with unplanned_attention(1):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(ValueError, match="failed"), unplanned_attention(1):
        raise ValueError("failed")
    assert not plans()
    leave.set()
    thread.join()
    assert plans()


def test_what_is_recorded_is_planned(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, begin = DecoderCall.__call__, StaticCache._read
    seen: list[bool] = []
    recorded: list[bool] = []

    def watched(decoder_call: DecoderCall, *args: Any, **inputs: Any) -> torch.Tensor:
        seen.append(plans())
        return call(decoder_call, *args, **inputs)

    def read(cache: StaticCache, *args: Any) -> torch.Tensor:
        recorded.append(plans())
        return begin(cache, *args)

    monkeypatch.setattr(DecoderCall, "__call__", watched)
    monkeypatch.setattr(StaticCache, "_read", read)
    layout = prompt(tiny_model, TEXT[:2], False, "What?")
    params = SamplingParams(max_tokens=3, stop=())
    engine = TransformersEngine(tiny_model)
    engine.generate([layout], params)
    assert seen
    assert not any(seen)
    engine._worker._caches = StaticCaches(tiny_model, record=lambda work: work)
    for _ in range(3):
        engine.generate([layout], params)
    assert recorded
    assert all(recorded)
    assert engine.wait(60)
    assert plans()
