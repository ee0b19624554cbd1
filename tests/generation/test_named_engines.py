from __future__ import annotations

from typing import Any

import pytest

from refrag_components.engines import TransformersEngine, VllmEngine
from refrag_components.exceptions import EngineError, MissingExtraError
from refrag_components.generation import named_engines
from refrag_components.generation.named_engines import check_engine, make_engine
from refrag_components.generation.shared_checkpoints import Checkpoint
from refrag_components.modeling import RefragModel
from tests.engines import fake_vllm


def test_names_that_engines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    for name in ("transformers", "vllm", "vllm+http://gpu:8001/v1", "vllm+https://gpu/v1"):
        check_engine(name)


@pytest.mark.parametrize(
    "name", ["vLLM", "", "http://gpu:8001/v1", "vllm+", "vllm+ftp://gpu", "vllm+http://", "sglang"]
)
def test_names_that_none_has(name: str) -> None:
    with pytest.raises(EngineError, match=r"engine must be .*vllm\+http"):
        check_engine(name)


def test_vllm_that_is_missing_is_named_before_a_checkpoint_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refrag_components.engines.vllm_in_process.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"refrag-components\[vllm\]"):
        check_engine("vllm")


def test_a_checkpoint_starts_an_engine_once(
    layered_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake_vllm.install(monkeypatch)
    checkpoint = Checkpoint(layered_model, "digest")
    engine = checkpoint.engine("vllm")
    assert isinstance(engine, VllmEngine)
    assert checkpoint.engine("vllm") is engine
    assert len(made) == 1
    assert checkpoint.engine(None) is checkpoint.engine("transformers")
    assert isinstance(checkpoint.engine(None), TransformersEngine)
    assert checkpoint.engine(engine) is engine
    engine.close()


def test_a_server_s_key_is_in_the_environment(
    layered_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "refrag_components.engines.vllm_engine.VllmEngine",
        lambda model, **options: asked.append(options),
    )
    for key in ("a-key", ""):
        monkeypatch.setenv(named_engines._KEY, key)
        make_engine("vllm+http://gpu:8001/v1", layered_model)
    url = "http://gpu:8001/v1"
    assert asked == [{"base_url": url, "api_key": "a-key"}, {"base_url": url, "api_key": None}]
