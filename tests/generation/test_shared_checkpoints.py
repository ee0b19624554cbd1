"""Checkpoints are shared as long as their files stay the same."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refrag_components.exceptions import UnknownModelError
from refrag_components.generation import shared_checkpoints
from refrag_components.generation.shared_checkpoints import (
    answering_digest,
    check_checkpoint,
    checkpoint_digest,
    load_checkpoint,
)
from refrag_components.modeling import RefragModel


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


class Clock:
    """Stands still until a test lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def later(self) -> None:
        """Lets as much time pass as folders are not looked at again."""
        self.now += shared_checkpoints._LOOK_AGAIN


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(shared_checkpoints, "time", made)
    monkeypatch.setattr(shared_checkpoints, "_looks", {})
    return made


def change(folder: Path) -> None:
    """Alters one weight of the projector."""
    projector = folder / "projector.safetensors"
    data = bytearray(projector.read_bytes())
    data[-1] ^= 1
    projector.write_bytes(data)


def test_digest_follows_the_files(folder: Path, tiny_folder: Path, clock: Clock) -> None:
    assert checkpoint_digest(str(folder)) == checkpoint_digest(str(tiny_folder))
    change(folder)
    clock.later()
    assert checkpoint_digest(str(folder)) != checkpoint_digest(str(tiny_folder))


def test_retrained_checkpoint_is_loaded_again(folder: Path, clock: Clock) -> None:
    first = load_checkpoint(str(folder))
    assert load_checkpoint(str(folder)) is first
    change(folder)
    assert load_checkpoint(str(folder)) is first, "looked at again too soon"
    clock.later()
    second = load_checkpoint(str(folder))
    assert second is not first
    assert load_checkpoint(str(folder)) is second


def test_editing_the_card_loads_nothing_again(folder: Path, clock: Clock) -> None:
    first = load_checkpoint(str(folder))
    (folder / "README.md").write_text("# A better card\n")
    clock.later()
    assert load_checkpoint(str(folder)) is first


def test_requests_do_not_look_at_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_checkpoint(str(folder))
    monkeypatch.setattr(shared_checkpoints, "checkpoint_folder", None)
    assert load_checkpoint(str(folder)) is loaded
    assert answering_digest(str(folder)) == loaded.digest
    check_checkpoint(str(folder))


def test_what_is_loaded_answers_while_it_is_replaced(folder: Path, clock: Clock) -> None:
    first = load_checkpoint(str(folder))
    aside = folder.rename(folder.with_name("aside"))
    clock.later()
    assert load_checkpoint(str(folder)) is first  # gone for a moment
    check_checkpoint(str(folder))
    shutil.copytree(aside, folder, ignore=shutil.ignore_patterns("projector.*"))
    clock.later()
    assert load_checkpoint(str(folder)) is first  # half written
    assert answering_digest(str(folder)) == first.digest
    shutil.copy(aside / "projector.safetensors", folder)
    change(folder)
    clock.later()
    second = load_checkpoint(str(folder))
    assert second is not first
    assert answering_digest(str(folder)) == second.digest != first.digest


def test_a_checkpoint_that_cannot_be_loaded_is_not_tried_with_every_request(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_checkpoint(str(folder))
    (folder / "projector.safetensors").write_bytes(b"half")
    clock.later()
    assert load_checkpoint(str(folder)) is first
    monkeypatch.setattr(RefragModel, "from_pretrained", None)
    clock.later()
    assert load_checkpoint(str(folder)) is first
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    with pytest.raises(TypeError):  # on another device nothing is loaded that could answer
        load_checkpoint(str(folder), "meta")


def test_a_digest_loads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RefragModel, "from_pretrained", None)
    assert answering_digest(str(folder)) == checkpoint_digest(str(folder))


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
    for look in (answering_digest, check_checkpoint, checkpoint_digest, load_checkpoint):
        with pytest.raises(UnknownModelError):
            look("no-such-model")
