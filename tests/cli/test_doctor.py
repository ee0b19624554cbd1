from __future__ import annotations

import platform

import pytest
import torch

from refrag_components.cli import doctor
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
