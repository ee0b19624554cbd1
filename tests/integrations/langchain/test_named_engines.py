from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel

from langchain_refrag import ChatRefrag
from refrag_components.engines import VllmEngine
from refrag_components.exceptions import EngineError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.engines import fake_vllm

PASSAGE = "The harbour lies north of the old town and was dug in 1907."


def test_an_engine_by_its_name(layered_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    settings: dict[str, Any] = {"model": str(layered_folder), "device": "cpu", "max_tokens": 8}
    models = [ChatRefrag(**settings, engine=name) for name in ("transformers", "vllm")]
    documents = [Document(PASSAGE)]
    texts = [m.invoke("When was it dug?", documents=documents).text for m in models]
    assert texts[0] == texts[1]
    with pytest.raises(EngineError, match="no such engine"):
        ChatRefrag(**settings, engine="no such engine")


@pytest.mark.skipif(
    not hasattr(BaseChatModel, "_resolve_model_profile"),
    reason="this langchain-core asks no model for its profile",
)
def test_the_window_of_an_engine_that_is_given(
    layered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    settings: dict[str, Any] = {"model": str(layered_folder), "device": "cpu"}
    model = load_checkpoint(str(layered_folder), "cpu").model
    engine = VllmEngine(model, options={"max_model_len": model.window - 100})
    assert ChatRefrag(**settings, engine=engine).profile == {
        **(ChatRefrag(**settings).profile or {}),
        "max_input_tokens": model.window - 100,
    }
    engine.close()
