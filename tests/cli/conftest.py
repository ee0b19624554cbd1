from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refrag_components.cli import app

Run = Callable[..., Any]

HARBOUR = "The harbour of Eastport was dug in 1907. It lies north of the old town."
LIGHTHOUSE = "The lighthouse of Eastport was built in 1884. Its lamp is electric since 1931."


@pytest.fixture
def refrag() -> Run:
    """Runs the command line with the given arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def quiet_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes back what the command line does to loggers."""
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    loggers = [logging.getLogger(name) for name in ("refrag_components", "pypdf")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "harbour.md").write_text(HARBOUR)
    (folder / "lighthouse.txt").write_text(LIGHTHOUSE)
    return folder


@pytest.fixture
def index(refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    result = refrag("index", docs, "--out", folder, "--model", tiny_folder)
    assert result.exit_code == 0, result.output
    return folder
