"""A checkpoint that calls tools, for the tests of both frameworks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.integrations.scripted import ScriptedEngine, follow_tools
from tests.tiny import TOOL_TEMPLATE


@pytest.fixture(scope="session")
def tool_folder(roomy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose chat template knows tools, with a window for their schemas."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tools"
    shutil.copytree(roomy_folder / "tiny", folder)
    (folder / "decoder" / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def scripted(tool_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Makes ``tool_folder`` call tools as a trained decoder would."""
    generator = load_checkpoint(str(tool_folder), "cpu").generator
    engine = ScriptedEngine(generator.model, follow_tools, generator.engine)
    monkeypatch.setattr(generator, "engine", engine)
    return engine
