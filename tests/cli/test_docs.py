"""The README and docs/terminal.md show commands that there are, and pictures that load nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from refrag_components.cli import app

ROOT = Path(__file__).parents[2]
TERMINAL = ROOT / "docs" / "terminal.md"


@pytest.mark.parametrize("page", ["README.md", "docs/terminal.md", "docs/stores.md"])
def test_commands_and_options_are_those_of_the_code(page: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^    (?:\$ )?refrag (\w+)(.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert lines
    for name, rest in lines:
        command = commands[name]
        inner = getattr(command, "commands", {})
        known = {option for each in (command, *inner.values()) for p in each.params
            for option in p.opts}  # fmt: skip
        assert set(re.findall(r"--[\w-]+", rest.partition("#")[0])) <= known, name


def test_pictures_are_small_and_load_nothing() -> None:
    names = re.findall(r"!\[.*?\]\((.*?)\)", TERMINAL.read_text(encoding="utf-8"))
    assert len(names) >= 5
    for name in names:
        file = TERMINAL.parent / name
        assert file.stat().st_size < 150_000, name
        if file.suffix == ".svg":
            svg = file.read_text(encoding="utf-8")
            assert set(re.findall(r"https?://[^\"' ]*", svg)) <= {
                "http://www.w3.org/2000/svg",
                "https://www.textualize.io",  # a comment
            }
            assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", svg)
