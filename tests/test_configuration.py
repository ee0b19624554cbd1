from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from refrag_components.configuration import RefragConfig
from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragModel

GOOD = {"model_type": "refrag", "version": 1, "decoder": "org/decoder", "encoder": "org/encoder"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    config = RefragConfig(decoder="a", encoder="b", chunk_size=16, max_chunk_size=32)
    (tmp_path / "config.json").write_text(config.to_json())
    assert RefragConfig.from_folder(tmp_path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "something else, not a REFRAG checkpoint"),
        ("{}", "something else, not a REFRAG checkpoint"),
        ('{"model_type": "llama"}', "ordinary llama model, not a REFRAG checkpoint"),
        (json.dumps(GOOD | {"version": 2}), "version 2; this release reads version 1"),
        (json.dumps(GOOD | {"heads": 3}), r"unknown entries \['heads'\]; update the library"),
        (json.dumps(GOOD | {"chunk_size": 99}), "cannot be used: chunk_size must lie in"),
        (json.dumps(GOOD | {"chunk_size": "8"}), "cannot be used"),
        ('{"model_type": "refrag", "version": 1}', "cannot be used: .*'decoder'"),
    ],
)
def test_other_configurations_are_told_apart(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UnknownModelError, match=message) as caught:
        RefragConfig.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no REFRAG checkpoint"):
        RefragModel.from_pretrained(tmp_path)


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint with adapters beside the projector."""
    folder = tmp_path / "trained"
    shutil.copytree(tiny_folder, folder)
    for part in ("decoder", "encoder"):
        (folder / f"{part}_adapter").mkdir()
        (folder / f"{part}_adapter" / "adapter_config.json").write_text("{}")
        shutil.copy(
            folder / "projector.safetensors",
            folder / f"{part}_adapter" / "adapter_model.safetensors",
        )
    return folder


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
@pytest.mark.parametrize(
    "name",
    [
        "projector.safetensors",
        "decoder_adapter/adapter_config.json",
        "decoder_adapter/adapter_model.safetensors",
        "encoder_adapter/adapter_model.safetensors",
    ],
)
def test_a_missing_or_damaged_file_is_named_before_bases_are_fetched(
    trained: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RefragModel, "_assemble", lambda *_: pytest.fail("base weights were loaded")
    )
    path = trained / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(UnknownModelError, match=re.escape(f"{path} is missing or damaged")):
        RefragModel.from_pretrained(trained)
