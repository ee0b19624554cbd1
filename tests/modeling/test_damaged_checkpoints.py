"""Checkpoints whose files were altered: refused in the library's own words, or loaded whole."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from refrag_components.exceptions import RefragError, UnknownModelError
from refrag_components.modeling import RefragModel
from tests.fuzzing import cases
from tests.mutations import damaged, json_file

CASES = cases(40, 600)  # a checkpoint


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "tiny")


def alter(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("kind", ["tiny_folder", "layered_folder"])
def test_altered_checkpoints_are_refused_in_our_own_words(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, seed: int
) -> None:
    rng = random.Random(f"{kind} {seed}")
    folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json":
        path.write_bytes(json_file(rng, json.loads(path.read_text())))
    else:
        path.write_bytes(damaged(rng, path.read_bytes()))
    try:
        RefragModel.from_pretrained(folder, device="cpu")
    except RefragError as error:
        assert str(tmp_path) in str(error)


def test_a_checkpoint_runs_no_code_and_asks_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()"
    for part in ("decoder", "encoder"):
        (folder / part / "modeling_x.py").write_text(code)
        names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
        auto_map: dict[str, Any] = dict.fromkeys(names, "modeling_x.X")
        alter(folder / part / "config.json", model_type="x", auto_map=auto_map)
        alter(
            folder / part / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["modeling_x.X"] * 2},
        )
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        RefragModel.from_pretrained(folder)
    with pytest.raises(UnknownModelError, match="load and serve"):
        RefragModel.for_training(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_kernels_of_the_hub_are_refused(folder: Path, part: str, name: str) -> None:
    """Transformers would fetch and run them, trust_remote_code or not."""
    alter(folder / part / "config.json", text_config={}, **{name: "somebody/kernel"})
    with pytest.raises(UnknownModelError, match="somebody/kernel"):
        RefragModel.from_pretrained(folder, device="cpu")


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (tmp_path / "ran").mkdir, ()

    weights = folder / "decoder" / "model.safetensors"
    torch.save(load_file(weights), folder / "decoder" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        RefragModel.from_pretrained(folder)
    torch.save(Code(), folder / "decoder" / "pytorch_model.bin")
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        RefragModel.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
        ({"peft_type": "XLORA"}, "peft_type"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"target_modules": ["(a+)+$"]}, "target_modules"),
        ({"rank_pattern": {"(a+)+$": 3}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"r": True}, "r: "),
    ],
)
def test_adapters_are_plain_ones(folder: Path, changes: dict[str, Any], message: str) -> None:
    alter(folder / "decoder_adapter" / "adapter_config.json", **changes)
    with pytest.raises(UnknownModelError, match=message):
        RefragModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["decoder_adapter", "encoder_adapter", "chunk_adapter"])
@pytest.mark.parametrize("damage", ["one less", "one more", "nan"])
def test_weights_that_are_missing_left_over_or_no_numbers_are_told(
    folder: Path, name: str, damage: str
) -> None:
    path = folder / name / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    if damage == "one less":
        del tensors[first]
    elif damage == "one more":
        tensors["strange"] = torch.zeros(1)
    else:
        tensors[first] = tensors[first] * torch.nan
    save_file(tensors, path)
    with pytest.raises(UnknownModelError, match=r"does not fit|not numbers"):
        RefragModel.from_pretrained(folder)


@pytest.mark.parametrize("theta", [False, -1.0])
def test_a_decoder_that_its_config_breaks_is_named(folder: Path, theta: object) -> None:
    """It loads, and then reads nonsense: the places of tokens are not numbers."""
    rope = {"rope_theta": theta, "rope_type": "default"}
    alter(folder / "decoder" / "config.json", rope_parameters=rope)
    with pytest.raises(UnknownModelError) as error:
        RefragModel.from_pretrained(folder, device="cpu")
    assert str(folder) in str(error.value)


def test_layers_without_end_are_refused(folder: Path) -> None:
    alter(folder / "decoder" / "config.json", num_hidden_layers=10**12)
    with pytest.raises(UnknownModelError, match="layers"):
        RefragModel.from_pretrained(folder)


def test_the_encoder_that_is_loaded_when_searching_is_named(
    layered_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(layered_folder, tmp_path / "copy")
    (folder / "encoder" / "tokenizer.json").write_text("{")
    for name in ("model.safetensors", "config.json"):
        (folder / "encoder" / name).write_bytes(b"\0")
    model = RefragModel.from_pretrained(folder, device="cpu")
    with pytest.raises(UnknownModelError, match="encoder"):
        model.search_vector("When was the harbour dug?")
    with pytest.raises(UnknownModelError, match="encoder"):
        _ = model.retriever.width
