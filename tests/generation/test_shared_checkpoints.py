"""Checkpoints are shared as long as their files stay the same."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refrag_components.exceptions import UnknownModelError
from refrag_components.generation.shared_checkpoints import checkpoint_digest, load_checkpoint
from refrag_components.modeling import RefragModel


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def change(folder: Path) -> None:
    """Alters one weight of the projector."""
    projector = folder / "projector.safetensors"
    data = bytearray(projector.read_bytes())
    data[-1] ^= 1
    projector.write_bytes(data)


def test_digest_follows_the_files(folder: Path, tiny_folder: Path) -> None:
    assert checkpoint_digest(str(folder)) == checkpoint_digest(str(tiny_folder))
    change(folder)
    assert checkpoint_digest(str(folder)) != checkpoint_digest(str(tiny_folder))


def test_retrained_checkpoint_is_loaded_again(folder: Path) -> None:
    first = load_checkpoint(str(folder))
    assert load_checkpoint(str(folder)) is first
    change(folder)
    second = load_checkpoint(str(folder))
    assert second is not first
    assert load_checkpoint(str(folder)) is second


def test_editing_the_card_loads_nothing_again(folder: Path) -> None:
    first = load_checkpoint(str(folder))
    (folder / "README.md").write_text("# A better card\n")
    assert load_checkpoint(str(folder)) is first


def test_default_device_is_a_device(tiny_folder: Path) -> None:
    loaded = load_checkpoint(str(tiny_folder))
    assert load_checkpoint(str(tiny_folder), loaded.model.device.type) is loaded


def test_threads_load_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = RefragModel.from_pretrained

    def counting(name: str, **options: object) -> RefragModel:
        loads.append(name)
        return load(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(RefragModel, "from_pretrained", counting)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(load_checkpoint, [str(folder)] * 8))
    assert len(found) == 1
    assert loads == [str(folder)]


def test_unknown_checkpoint() -> None:
    for look in (checkpoint_digest, load_checkpoint):
        with pytest.raises(UnknownModelError):
            look("no-such-model")
