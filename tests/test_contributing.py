"""What the checklists for contributors name is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHECKLISTS = TEXT.partition("## Checklists")[2]
#: Paths are written from here.
BASES = [ROOT, *(ROOT / name for name in ("refrag_components", "tests", "integrations"))]


def is_there(name: str) -> bool:
    """Whether a file stands where it is said to; what is installed has no folder integrations."""
    names = (name, name.removeprefix("integrations/"))
    return any((base / name).exists() for base in BASES for name in names)


def test_every_file_is_there() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|\w+\.(?:py|md|toml))`", TEXT))
    files = {name for name in named if "NAME" not in name}
    known = [path.name for base in BASES[1:] for path in base.rglob("*.py")]
    assert len(files) > 40
    assert {name for name in files if name not in known and not is_there(name)} == set()


def test_every_name_is_in_the_code() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("refrag_components", "integrations", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
    )
    words = set(re.findall(r"\w+", code))
    named = set(re.findall(r"`([\w.]+)(?:\([^`]*\))?`", CHECKLISTS))
    parts = {
        part for name in named if not name.endswith((".py", ".toml")) for part in name.split(".")
    }
    assert len(parts) > 40
    assert sorted(parts - words) == []
