from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli.conftest import Run


def test_help_lists_the_commands(refrag: Run) -> None:
    result = refrag("--help")
    assert result.exit_code == 0
    for command in ("ask", "demo", "download", "index", "info"):
        assert command in result.stdout


def test_the_version_is_the_installed_one(refrag: Run) -> None:
    result = refrag("--version")
    assert result.exit_code == 0
    assert result.stdout == f"refrag-components {version('refrag-components')}\n"


@pytest.mark.parametrize("command", ["ask", "demo", "download", "index", "info"])
def test_every_command_explains_itself(refrag: Run, command: str) -> None:
    assert refrag(command, "--help").exit_code == 0


def test_a_mistake_in_a_real_process_has_exit_code_1_and_no_traceback() -> None:
    code = "from refrag_components.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "ask", "nowhere", "Why?"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Error: nowhere holds no index; make one with ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("-h",), ("ask", "-h"), ("eval", "-h")])
def test_help_is_short_for_h(refrag: Run, arguments: tuple[str, ...]) -> None:
    result = refrag(*arguments)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
