from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command

from refrag_components.cli import app
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


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """Such as ``head``; nothing is said of it, neither an error nor a traceback."""
    code = "from refrag_components.cli import main; main()"
    command = [sys.executable, "-c", code, "index", "--help"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait() == 1
    assert said == b""


@pytest.mark.parametrize("arguments", [("-h",), ("ask", "-h"), ("eval", "-h")])
def test_help_is_short_for_h(refrag: Run, arguments: tuple[str, ...]) -> None:
    result = refrag(*arguments)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def _commands() -> list[tuple[str, ...]]:
    root = get_command(app)
    names: list[tuple[str, ...]] = [()]
    for name, command in sorted(root.commands.items()):  # type: ignore[attr-defined]
        names.append((name,))
        names += [(name, inner) for inner in sorted(getattr(command, "commands", {}))]
    return names


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_help_is_whole_in_80_columns(
    refrag: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word of it is there: nothing is cut off, and no option or URL is broken in two."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = refrag(*command, "--help").stdout
    monkeypatch.setenv("COLUMNS", "300")
    words = set(refrag(*command, "--help").stdout.split())
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert set(shown.split()) <= words | {
        line for line in shown.split() if set(line) <= set("╭╮╰╯─")
    }


def test_one_option_means_one_thing() -> None:
    """k is the chunk size wherever it can be given; passages are what is retrieved."""
    root = get_command(app)
    options: dict[str, set[str]] = {}
    stack = [root]
    while stack:
        command = stack.pop()
        stack += getattr(command, "commands", {}).values()
        for param in command.params:
            for name in param.opts:
                options.setdefault(name, set()).add(getattr(param, "help", None) or "")
    assert "--k" not in options
    assert all("k" in text for text in options["--chunk-size"])
    assert all("assages" in text for text in options["--passages"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_policies(shell: str, tmp_path: Path) -> None:
    code = "from refrag_components.cli import app; app(prog_name='refrag')"
    line = "refrag ask INDEX Why --policy sim"
    words = {"COMP_WORDS": line, "COMP_CWORD": "5", "_TYPER_COMPLETE_ARGS": line}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ, **words,
            "_REFRAG_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert "similarity" in result.stdout
    assert "perplexity" not in result.stdout
