from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.weights.lookup import bundled_names, checkpoint_folder

GOOD = {"model_type": "refrag", "version": 1, "decoder": "org/decoder", "encoder": "org/encoder"}
LAYERS = GOOD | {"version": 2, "encoder_layers": 2, "token_mlp": 0}
FOLDERS = ("chunk_adapter", "decoder", "decoder_adapter", "encoder", "encoder_adapter")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    config = RefragConfig(decoder="a", encoder="b", max_chunk_size=32, folders=("decoder",))
    (tmp_path / "config.json").write_text(config.to_json())
    assert RefragConfig.from_folder(tmp_path) == config


def test_a_ladder_is_written_and_read(tmp_path: Path) -> None:
    config = RefragConfig(
        decoder="a",
        encoder="b",
        encoder_layers=2,
        policy_vectors=True,
        token_mlp=0,
        rungs=(8, 16, 32),
    )
    (tmp_path / "config.json").write_text(config.to_json())
    assert json.loads(config.to_json())["version"] == 2
    assert RefragConfig.from_folder(tmp_path) == config


def test_earlier_releases_read_what_has_a_hugging_face_encoder() -> None:
    written = json.loads(RefragConfig(decoder="a", encoder="b").to_json())
    assert written["version"] == 1
    assert not {"encoder_layers", "policy_vectors", "rungs"} & set(written)


def test_rungs_of_a_hugging_face_encoder_are_its_chunk_size_alone() -> None:
    assert RefragConfig(decoder="a", encoder="b", chunk_size=4).rungs == (4,)
    with pytest.raises(ValueError, match="need an encoder made of decoder layers"):
        RefragConfig(decoder="a", encoder="b", rungs=(8, 16))


def test_vectors_for_policies_need_an_encoder_of_layers() -> None:
    with pytest.raises(ValueError, match="policy_vectors need an encoder made of decoder layers"):
        RefragConfig(decoder="a", encoder="b", policy_vectors=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "something else, not a REFRAG checkpoint"),
        ("{}", "something else, not a REFRAG checkpoint"),
        ('{"model_type": "llama"}', "ordinary llama model, not a REFRAG checkpoint"),
        (json.dumps(GOOD | {"version": 3}), "version 3; this release reads versions 1 and 2"),
        (json.dumps(GOOD | {"version": True}), "version True; this release reads versions"),
        (json.dumps(GOOD | {"version": 2}), "version 2 but no encoder_layers"),
        (json.dumps(GOOD | {"encoder_layers": 2}), r"unknown entries \['encoder_layers'\]"),
        (
            json.dumps(LAYERS | {"encoder_layers": "2"}),
            "used: encoder_layers: .* valid int",
        ),
        (
            json.dumps(LAYERS | {"encoder_layers": True}),
            "used: encoder_layers: .* valid int",
        ),
        (json.dumps(LAYERS | {"policy_vectors": 1}), "used: policy_vectors: .* valid bool"),
        (json.dumps(GOOD | {"policy_vectors": True}), r"unknown entries \['policy_vectors'\]"),
        (json.dumps(LAYERS | {"encoder_layers": -1}), "cannot be used: encoder_layers must be a"),
        (json.dumps(LAYERS | {"rungs": 8}), "cannot be used: rungs: .* valid array, got 8"),
        (json.dumps(LAYERS | {"rungs": [8, "16"]}), "cannot be used: rungs.1: .* valid int"),
        (json.dumps(LAYERS | {"rungs": [16, 32]}), "cannot be used: rungs must be ascending"),
        (json.dumps(LAYERS | {"rungs": [8, 32, 16]}), "cannot be used: rungs must be ascending"),
        (json.dumps(LAYERS | {"rungs": [8, 12]}), "cannot be used: rungs must be ascending"),
        (json.dumps(LAYERS | {"max_chunk_size": 16}), "max_chunk_size must be 8, got 16"),
        (json.dumps(LAYERS | {"token_mlp": 64}), "token_mlp must be 0, got 64"),
        (json.dumps(LAYERS | {"contextual": False}), "contextual must be True, got False"),
        (json.dumps(GOOD | {"heads": 3}), r"unknown entries \['heads'\]; another version"),
        (json.dumps(GOOD | {"chunk_size": 99}), "cannot be used: chunk_size must be from 1"),
        (json.dumps(GOOD | {"chunk_size": "8"}), "cannot be used"),
        (json.dumps(GOOD | {"token_mlp": -1}), "cannot be used: token_mlp must be the width"),
        (json.dumps(GOOD | {"token_mlp": "64"}), "cannot be used"),
        (json.dumps(GOOD | {"folders": ["../x"]}), "cannot be used: folders may name .*'../x'"),
        (json.dumps(GOOD | {"folders": 3}), "cannot be used"),
        ('{"model_type": "refrag", "version": 1}', "cannot be used: decoder: field required"),
    ],
)
def test_other_configurations_are_told_apart(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UnknownModelError, match=message) as caught:
        RefragConfig.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_configuration_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="not a REFRAG checkpoint"):
        RefragModel.from_pretrained(tmp_path)


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, adapters and all."""
    folder = tmp_path / "trained"
    shutil.copytree(tiny_folder, folder)
    return folder


@pytest.fixture
def no_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        RefragModel, "_assemble", lambda *_: pytest.fail("base weights were loaded")
    )


def test_saving_lists_the_folders(tiny_folder: Path) -> None:
    assert RefragConfig.from_folder(tiny_folder).folders == FOLDERS


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_checkpoints_list_their_folders(name: str) -> None:
    folder = checkpoint_folder(name)
    listed = RefragConfig.from_folder(folder).folders
    assert sorted(listed) == sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.usefixtures("no_bases")
@pytest.mark.parametrize("name", FOLDERS)
def test_a_missing_folder_is_named_before_bases_are_fetched(trained: Path, name: str) -> None:
    shutil.rmtree(trained / name)
    for load in (RefragModel.from_pretrained, RefragModel.for_training):
        with pytest.raises(UnknownModelError, match=f"{name} is missing; copy or download"):
            load(trained)


@pytest.mark.usefixtures("no_bases")
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
@pytest.mark.parametrize(
    "name",
    [
        "projector.safetensors",
        "decoder_adapter/adapter_config.json",
        "decoder_adapter/adapter_model.safetensors",
        "encoder_adapter/adapter_model.safetensors",
        "chunk_adapter/adapter_model.safetensors",
    ],
)
def test_a_missing_or_damaged_file_is_named_before_bases_are_fetched(
    trained: Path, name: str, damage: str
) -> None:
    path = trained / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(UnknownModelError, match=re.escape(f"{path} is missing or damaged")):
        RefragModel.from_pretrained(trained)
