from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_index.llms.refrag import RefragLLM
from refrag_components.engines import VllmEngine
from refrag_components.exceptions import EngineError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.engines import fake_vllm

PASSAGE = "The harbour lies north of the old town and was dug in 1907."


def test_an_engine_by_its_name(layered_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    settings: dict[str, Any] = {"model": str(layered_folder), "device": "cpu", "max_tokens": 8}
    models = [RefragLLM(**settings, engine=name) for name in ("transformers", "vllm")]
    texts = [m.complete("When was it dug?", documents=[PASSAGE]).text for m in models]
    assert texts[0] == texts[1]
    with pytest.raises(EngineError, match="no such engine"):
        RefragLLM(**settings, engine="no such engine")


def test_the_window_of_an_engine_that_is_given(
    layered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    settings: dict[str, Any] = {"model": str(layered_folder), "device": "cpu"}
    model = load_checkpoint(str(layered_folder), "cpu").model
    engine = VllmEngine(model, options={"max_model_len": model.window // 2})
    window = RefragLLM(**settings, engine=engine).metadata.context_window
    assert window == pytest.approx(RefragLLM(**settings).metadata.context_window / 2, abs=1)
    engine.close()
