"""What a terminal shows while it waits."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from refrag_components.cli import common


@pytest.mark.parametrize("terminal", [True, False])
def test_loading_shows_that_it_works(
    terminal: bool, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=400, force_terminal=terminal)
    monkeypatch.setattr(common, "errors", console)
    common.load_model(str(tiny_folder))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Loading {tiny_folder}" in shown
    assert ("\x1b[?25l" in shown) == terminal  # the cursor is hidden while something turns
    assert (shown == f"Loading {tiny_folder}\n") == (not terminal)
