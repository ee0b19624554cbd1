from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from refrag_components.cli import doctor
from refrag_components.weights.wheels import KNOWN_BASES
from tests.cli.conftest import Run


def test_versions_device_and_threads_are_shown(
    refrag: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "no-such-package"))
    result = refrag("doctor")
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert facts["python"].strip() == platform.python_version()
    assert facts["threads"].startswith(f"{torch.get_num_threads()},")
    assert facts["no-such-package"].strip() == "not installed"
    assert {"system", "device", "checkpoints", "torch"} <= set(facts)


def test_base_weights_are_on_this_machine_or_not(
    refrag: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = KNOWN_BASES[0]
    monkeypatch.setattr(doctor, "base_on_disk", lambda name: "/here" if name == there else None)
    facts = dict(line.split(maxsplit=1) for line in refrag("doctor").stdout.splitlines())
    assert [facts[name].strip() for name in KNOWN_BASES] == ["/here", "not fetched yet"]


def test_model_and_store_of_an_index(
    refrag: Run, index: Path, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shown = refrag("doctor", index).stdout
    assert f"{index}: 2 documents, 2 passages" in shown
    assert f"{tiny_folder}, fingerprint " in shown
    assert "in the folder: can be read" in shown
    store, other = tmp_path / "vectors.sqlite", tmp_path / "other"
    options = ("--out", other, "--model", tiny_folder, "--store", store)
    assert refrag("index", docs, *options).exit_code == 0
    assert f"{store}: can be read" in refrag("doctor", other).stdout
    store.write_bytes(b"not a database" * 100)
    shown = refrag("doctor", other)
    assert shown.exit_code == 0
    assert f"{store}: can be read" not in shown.stdout and str(store) in shown.stdout
